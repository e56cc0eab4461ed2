"""The names that the package exports, and that everything public says what it is."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import cnnsplitter

SOURCES = Path(cnnsplitter.__file__).parent

NAMES = {
    "baking": ("bake",),
    "calibration": ("Calibration",),
    "channels": ("ChannelMap",),
    "class_modules": ("ClassModule", "ComposedModel", "compose"),
    "classifier": ("Classifier",),
    "cost": ("Cost", "measure_cost"),
    "data": ("ImageSet", "SplitShares", "Splits", "load_data", "make_splits"),
    "patches.diagnosis": ("diagnose",),
    "errors": ("CnnSplitterError",),
    "evaluation": ("Comparison", "Evaluation", "compare", "evaluate"),
    "patches.fitting": ("Fitting",),
    "patches.gating": ("Gate",),
    "patches.guard": ("judge",),
    "composition": ("fit_composition",),
    "engines": ("Processes", "RayCluster"),
    "exporting": ("Exported", "export"),
    "hub": ("load_folder", "pull_from_hub", "push_to_hub", "save_folder"),
    "compensation.compensating": ("compensate",),
    "finetuning": ("FineTuning", "fine_tune"),
    "importance": ("Importance", "measure_importance"),
    "models": ("build_model",),
    "patches.patching": ("PatchedModel", "patch"),
    "preprocessing": ("IMAGENET", "Preprocessing"),
    "recalibration": ("recalibrate",),
    "search": (
        "GeneticSearch",
        "GradientSearch",
        "RandomSearch",
        "SearchResult",
        "ThresholdSearch",
    ),
    "selection": ("Selection",),
    "sensitivity": ("Sensitivity", "measure_sensitivity"),
    "splitting": ("Split", "split"),
    "storage.saving": ("load", "save"),
    "subtasks.searching": ("subtask",),
    "subtasks.networks": ("Subtask", "restrict", "unite"),
    "surgery": ("extract", "masked_forward"),
    "taylor": ("measure_taylor",),
    "training": ("Training", "train"),
    "weights": ("load_weights",),
}
"""Changing this is changing what users rely on."""


def test_the_exported_names_are_these() -> None:
    expected = {name for names in NAMES.values() for name in names}
    assert set(cnnsplitter.__all__) == expected | {"__version__"}
    assert len(cnnsplitter.__all__) == len(set(cnnsplitter.__all__))
    assert dir(cnnsplitter) == sorted(cnnsplitter.__all__)


@pytest.mark.parametrize(("home", "name"), [(h, n) for h, names in NAMES.items() for n in names])
def test_a_name_is_the_one_of_its_module(home: str, name: str) -> None:
    module = importlib.import_module(f"cnnsplitter.{home}")
    assert getattr(cnnsplitter, name) is getattr(module, name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'splitt'"):
        cnnsplitter.splitt  # noqa: B018


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    (checking,) = (
        node
        for node in ast.parse((SOURCES / "__init__.py").read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {
        alias.name: (node.module or "").removeprefix("cnnsplitter.")
        for node in checking.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {name: home for home, names in NAMES.items() for name in names}


def test_every_public_thing_has_a_docstring() -> None:
    bare = [
        f"{path.relative_to(SOURCES)}: {name}"
        for path in sorted(SOURCES.rglob("*.py"))
        for name, node in _public(ast.parse(path.read_text()))
        if not ast.get_docstring(node)
    ]
    assert bare == []


Documented = ast.Module | ast.ClassDef | ast.FunctionDef


def _public(node: Documented, place: str = "") -> Iterator[tuple[str, Documented]]:
    yield place or "module", node
    for inner in node.body if not isinstance(node, ast.FunctionDef) else ():
        if isinstance(inner, ast.ClassDef | ast.FunctionDef) and not inner.name.startswith("_"):
            yield from _public(inner, f"{place}.{inner.name}".lstrip("."))


@pytest.mark.parametrize("name", cnnsplitter.__all__)
def test_every_exported_thing_is_documented(name: str) -> None:
    thing = getattr(cnnsplitter, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
