"""The walk of a new user, from a folder of images to a patched model, with the pages' commands."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnsplitter.recipes import load_recipe
from cnnsplitter.results import read_json
from cnnsplitter.search import GradientSearch
from cnnsplitter.storage.saving import describe
from docpages import Page
from shop import leave_undrawn, succeed

DATA = os.environ.get("CNNSPLITTER_DATA")
pytestmark = pytest.mark.skipif(
    not DATA, reason="CNNSPLITTER_DATA does not name a folder with cifar10.npz"
)

QUICK_START = Page("docs/quick-start.md")
LEFT_OUT = ("--install-completion", "export", "run", "report", "runs")
"""Commands that take too long here; `test_all_pages` says where the like is run."""


def write_photos(folder: Path, classes: tuple[str, ...], counts: dict[str, int]) -> None:
    """Write some images of CIFAR-10 as files, ``part/class/number.png``."""
    with np.load(Path(str(DATA)) / "cifar10.npz", allow_pickle=False) as arrays:
        names = arrays["classes"].tolist()
        for part, count in counts.items():
            images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
            for name in classes:
                place = folder / part / name
                place.mkdir(parents=True)
                for number, row in enumerate(np.flatnonzero(labels == names.index(name))[:count]):
                    Image.fromarray(images[row]).save(place / f"{number}.png")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after the quick start; its commands have run in the order of the page."""
    folder = tmp_path_factory.mktemp("walk")
    write_photos(folder / "photos", ("frog", "ship", "truck"), {"train": 160, "test": 40})
    write_photos(folder / "animals", ("bird", "horse"), {"train": 80, "test": 20})
    for name, text in QUICK_START.files("toml").items():
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        leave_undrawn(patch)
        for call in QUICK_START.calls:
            if call[0] not in LEFT_OUT or "--dry-run" in call:
                succeed(*call)
    return folder


@pytest.fixture(autouse=True)
def _here(walk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(walk)
    leave_undrawn(monkeypatch)


def test_the_walk_ends_with_a_better_model() -> None:
    for made in ("weak", "strong", "patched", "composed"):
        assert Path(f"{made}.safetensors").is_file()
    compare = ("--data", "photos", "--size", 32, "--before", "weak.safetensors", "--json")
    result = succeed("evaluate", "patched.safetensors", *compare).json
    assert result["before"]["classes"][0] == "frog"
    assert result["after"]["f1"][0] > result["before"]["f1"][0]


def test_the_recipe_of_the_quick_start_can_be_read() -> None:
    recipe = load_recipe("photos.toml")
    assert recipe.patch.targets == ("frog",)
    assert recipe.search.search == GradientSearch(keep=0.8, rounds=1, steps=5, anneal=0)


def test_the_python_of_the_quick_start(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = QUICK_START.python
    exec(compile(block, QUICK_START.name, "exec"), {})
    (block,) = Page("docs/gpu.md").python
    exec(compile(block, "docs/gpu.md", "exec"), {})
    assert capsys.readouterr().out.count("'") == 16


def test_a_new_task_from_two_models() -> None:
    for call in Page("docs/new-task.md").calls:
        succeed(*call)
    data = ("--data", "photos[frog,ship]+animals[horse]", "--size", 32, "--json")
    found = succeed("evaluate", "task.safetensors", *data).json
    assert found["model"]["classes"] == ["frog", "ship", "horse"]
    assert Path("frog-or-ship/subtask.safetensors").is_file()


def test_the_searches() -> None:
    page = Page("docs/searches.md")
    for name, text in page.files("toml").items():
        Path(name).write_text(text)
    for call in page.calls:
        succeed(*call)
    points = read_json(Path("front/pareto.json"))["points"]
    assert [point["keep"] for point in points] == [0.9, 0.7, 0.5]
    made = describe("by-effect/frog.safetensors")["details"]["search"]
    assert (made["ranked_by"], made["scale"]) == ("taylor", "max")
    assert Path("refined/frog.safetensors").is_file()


def test_the_commands_of_patching() -> None:
    """With the class and the size of the walk."""
    for call in Page("docs/patching.md").calls[:2]:
        words = [word.replace("cat.safetensors", "frog.safetensors") for word in call]
        succeed(*words, "--size", 32, *(["--force"] if call[0] == "patch" else []))
