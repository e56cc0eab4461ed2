"""The notebook runs from top to bottom, and shows figures and tables."""

from pathlib import Path
from typing import Any

import pytest

import cnnsplitter
from docpages import DOCS

NOTEBOOK = DOCS / "notebook.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells with code after they have run in a folder of their own."""
    for name in ("nbformat", "ipykernel"):
        pytest.importorskip(name, reason="runs the notebook")
    nbclient = pytest.importorskip("nbclient", reason="runs the notebook")
    import nbformat

    folder = tmp_path_factory.mktemp("notebook")
    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    resources = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        # the kernel runs elsewhere; it is to find this package, installed or not
        patch.setenv("PYTHONPATH", str(Path(cnnsplitter.__file__).parents[1]))
        nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    assert Path(folder / "patched.safetensors").is_file()
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells: list[Any], beginning: str) -> dict[str, Any]:
    """What the cell that begins so has shown."""
    (cell,) = (cell for cell in cells if cell.source.startswith(beginning))
    (output,) = (output for output in cell.outputs if output.output_type == "execute_result")
    data: dict[str, Any] = output.data
    return data


def test_the_cells_say_nothing_else(cells: list[Any]) -> None:
    assert {output.output_type for cell in cells for output in cell.outputs} == {"execute_result"}


@pytest.mark.parametrize("figure", ["search_progress", "overlap_map", "confusions"])
def test_figures_are_shown(cells: list[Any], figure: str) -> None:
    assert shown(cells, f"figures.{figure}")["image/png"]


def test_models_and_comparisons_are_tables(cells: list[Any]) -> None:
    assert "Class module of 8" in shown(cells, "search =")["text/html"]
    assert "10 class modules" in shown(cells, "cs.compose")["text/html"]
    assert "1 patches by" in shown(cells, "patched =")["text/html"]
    assert "<td>recall</td><td>0.0 %</td>" in shown(cells, "comparison =")["text/html"]
