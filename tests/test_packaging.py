"""What is built holds what it should, and runs where nothing but the dependencies is installed."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

import cnnsplitter
from cnnsplitter.storage.saving import save
from toys import classifier

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "src" / "cnnsplitter"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BROKEN = "raise RuntimeError('operator torchvision::nms does not exist')"


def run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a program that knows nothing of this process's paths; return what it prints."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    result = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + (result.stderr if code else "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a wheel and an sdist; the wheel is built from the sdist."""
    for name in ("build", "hatchling"):
        pytest.importorskip(name, reason="builds the package")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = [name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name]
    here = [path for path in SOURCES.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sorted(names) == sorted(str(Path("cnnsplitter") / p.relative_to(SOURCES)) for p in here)
    assert {"cnnsplitter/py.typed", "cnnsplitter/report/page.html"} <= set(names)
    assert "cnnsplitter/recipes/demo.toml" in names
    assert wheel.stat().st_size < 6_000_000


def test_the_sdist_can_be_built_and_tested_from(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "tests/test_packaging.py"}
    assert wanted <= names
    assert {"docs/quick-start.md", "src/cnnsplitter/py.typed"} <= names
    data = {name for name in names if name.endswith((".npz", ".pyc", ".safetensors", ".pth"))}
    assert all(name.startswith(("tests/golden/", "src/cnnsplitter/zoo/")) for name in data)
    assert path.stat().st_size < 10_000_000


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    version = cnnsplitter.__version__
    assert wheel.name.startswith(f"cnnsplitter-{version}-py3-none-any")
    said = [p for p in SOURCES.rglob("*.py") if f'"{version}"' in p.read_text()]
    assert [path.name for path in said] == ["__init__.py"]
    assert f"[{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["dynamic"] == ["version"]


def test_the_metadata_tells_what_it_runs_on(wheel: Path) -> None:
    archive = ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
    lines = archive.read(name).decode().splitlines()
    assert "Requires-Python: >=3.11" in lines
    for minor in (11, 12, 13):
        assert f"Classifier: Programming Language :: Python :: 3.{minor}" in lines
    provided = {line.split()[1] for line in lines if line.startswith("Provides-Extra:")}
    extras = {"torchvision", "timm", "onnx", "hub", "ray", "tensorboard", "mlflow", "docs", "test"}
    assert provided == extras


def needed(requirement: str, found: dict[str, Distribution]) -> None:
    """Add what a requirement brings, with all that this needs, but no extras."""
    parsed = Requirement(requirement)
    if parsed.name in found or (parsed.marker and not parsed.marker.evaluate({"extra": ""})):
        return
    try:
        found[parsed.name] = distribution(parsed.name)
    except PackageNotFoundError:  # a part of PyTorch for other hardware
        return
    for inner in found[parsed.name].requires or ():
        needed(inner, found)


def tops(package: Distribution) -> Iterator[Path]:
    """Yield the files and folders that a distribution puts beside those of others."""
    first = {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}
    yield from (Path(str(package.locate_file(name))) for name in first)


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; its dependencies, and no others, are links."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    found: dict[str, Distribution] = {}
    for requirement in PROJECT["dependencies"]:
        needed(requirement, found)
    for path in {path for package in found.values() for path in tops(package)}:
        if path.exists():
            (packages / path.name).symlink_to(path)
    python = folder / "bin" / "python"
    options = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    return folder


def test_it_runs_without_any_extra_and_beside_a_broken_torchvision(empty: Path) -> None:
    program, python = empty / "bin" / "cnnsplitter", empty / "bin" / "python"
    assert run(program, "--version", cwd=empty).strip() == cnnsplitter.__version__
    run(python, "-c", "import torchvision", cwd=empty, code=1)
    save(classifier(), empty / "strong.safetensors")
    assert "strong.safetensors: classifier" in run(
        program, "inspect", "strong.safetensors", cwd=empty
    )

    (packages,) = empty.glob("lib/python*/site-packages")
    (packages / "torchvision.py").write_text(BROKEN)
    assert " units, each of which" in run(program, "demo", "--dry-run", cwd=empty)
    told = run(program, "train", "lenet5", "--data", "mnist", "--out", "x", cwd=empty, code=2)
    assert "pip install 'cnnsplitter[torchvision]'" in told


@pytest.mark.large
def test_pip_installs_it_and_the_demo_runs(wheel: Path, tmp_path: Path) -> None:
    """Minutes and gigabytes: PyTorch is installed anew."""
    venv.create(tmp_path / "env", with_pip=True)
    run(tmp_path / "env/bin/pip", "install", "--quiet", wheel, cwd=tmp_path)
    shown = run(tmp_path / "env/bin/cnnsplitter", "demo", cwd=tmp_path)
    assert "Before and after, on the test images" in shown
