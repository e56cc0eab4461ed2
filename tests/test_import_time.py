"""What is loaded when: heavy libraries only by the functions that need them."""

import os
import subprocess
import sys
from pathlib import Path

import cnnsplitter

SOURCES = Path(cnnsplitter.__file__).parent
MODULES = [
    ".".join(("cnnsplitter", *path.relative_to(SOURCES).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for path in sorted(SOURCES.rglob("*.py"))
    if path.stem != "__main__"
]
TELL = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def loaded_by(code: str, *, path: Path | None = None) -> set[str]:
    """Run code in a new process; return the names of all top-level modules that it loads."""
    environment = dict(os.environ)
    places = [str(place) for place in (path, SOURCES.parent) if place is not None]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{TELL}"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_the_package_alone_loads_nothing_heavy() -> None:
    loaded = loaded_by("import cnnsplitter; cnnsplitter.__version__; dir(cnnsplitter)")
    assert "cnnsplitter" in loaded
    assert not loaded & {"torch", "numpy", "sklearn", "scipy", "PIL", "pydantic", "rich", "typer"}


def test_help_loads_no_torch() -> None:
    code = "import cnnsplitter.cli as c\ntry: c.app(['split', '--help'])\nexcept SystemExit: pass"
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & {"torch", "numpy", "sklearn", "scipy", "PIL"}


def test_no_file_of_ours_loads_what_only_some_functions_need() -> None:
    parts = ("figures", "report.drawings", "report.page", "report.picture")
    drawing = tuple(f"cnnsplitter.{part}" for part in parts)
    modules = [name for name in MODULES if not name.startswith(drawing)]
    loaded = loaded_by("; ".join(f"import {name}" for name in modules))
    assert {"torch", "pydantic", "safetensors"} <= loaded
    assert not loaded & {"sklearn", "torchvision", "torch_pruning", "timm", "matplotlib"}


def test_a_broken_torchvision_is_no_hindrance(tmp_path: Path) -> None:
    """One that was built for another PyTorch raises a RuntimeError when it is imported."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator missing')")
    everything = "; ".join(f"cnnsplitter.{name}" for name in cnnsplitter.__all__)
    code = (
        f"import cnnsplitter; {everything}\n"
        "try: cnnsplitter.load_data('cifar10')\n"
        "except cnnsplitter.CnnSplitterError as error: assert 'torchvision' in str(error)\n"
        "else: raise SystemExit('no error')"
    )
    assert "torch" in loaded_by(code, path=tmp_path)


def test_a_plan_loads_no_compiler_and_no_scikit_learn(tmp_path: Path) -> None:
    """Seconds each; PyTorch imports its compiler where a network runs without data."""
    words = ["demo", "--dry-run", "--out", str(tmp_path / "run")]
    code = (
        f"import sys, cnnsplitter.cli as c\ntry: c.app({words})\nexcept SystemExit: pass\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    loaded = loaded_by(code)
    assert "torch" in loaded
    assert not loaded & {"sympy", "sklearn", "matplotlib"}
