"""Checkpoints, importance, curves, recipes, results: what older versions wrote is read, too."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cnnsplitter.errors import StorageError
from cnnsplitter.files import FORMAT, read_tensors
from cnnsplitter.pipeline import Run
from cnnsplitter.recipes import load_recipe
from cnnsplitter.results import read_json
from trust.golden import FOLDER
from trust.golden_others import CONTAINERS, EXPECTED, HERE, KINDS, SEARCHES, searched

FILES = [path.parent / name for path in FOLDER.glob(f"*/*/{EXPECTED}") for name in KINDS]
NEEDS = {".onnx": "onnx"}


def assert_holds(found: Any, expected: Any, place: str) -> None:
    """What was known on the day is the same; newer versions may add to it."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), place
        assert expected.keys() <= found.keys(), place
        for key, value in expected.items():
            assert_holds(found[key], value, f"{place}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, value in enumerate(expected):
            assert_holds(found[number], value, f"{place}/{number}")
    else:
        assert found == (pytest.approx(expected) if type(expected) is float else expected), place


def copied(path: Path, folder: Path) -> Path:
    """Where it may be written to, beside what lay beside it."""
    return shutil.copytree(path.parent, folder / "copy") / path.name


def name_of(path: Path) -> str:
    return next(name for name in KINDS if path.match(f"*/{name}"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_what_is_read_is_what_was_read(path: Path, tmp_path: Path) -> None:
    if path.suffix in NEEDS:
        pytest.importorskip(NEEDS[path.suffix], reason="needs the extra onnx")
    place = copied(path, tmp_path)
    found = json.loads(json.dumps(KINDS[name_of(path)].read(place)))
    home = next(folder for folder in path.parents if (folder / EXPECTED).exists())
    assert_holds(found, read_json(home / EXPECTED)[name_of(path)], path.name)
    assert place.read_bytes() == path.read_bytes(), "nothing was done anew"


@pytest.mark.parametrize("name", SEARCHES)
def test_an_old_search_goes_on(name: str, tmp_path: Path) -> None:
    path = copied(HERE / f"{name}.checkpoint", tmp_path)
    before = read_json(HERE / EXPECTED)[path.name]["history"]
    after = json.loads(json.dumps(searched(name, path, 3)))["history"]
    assert_holds(after[:2], before, name)
    assert len(after) == 3


def test_an_old_run_goes_on(tmp_path: Path) -> None:
    """Its folder is taken for one of the same recipe."""
    folder = copied(HERE / "run" / "report.json", tmp_path).parent
    before = (folder / "recipe.json").read_bytes()
    Run(load_recipe(str(HERE / "recipe.toml")), folder, {}).prepare()
    assert (folder / "recipe.json").read_bytes() == before


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_newer_file_names_the_version_needed(name: str, tmp_path: Path) -> None:
    place = copied(HERE / name, tmp_path)
    manifest = {**read_tensors(place)[1], "format": FORMAT + 1, "writer": "3.1.0"}
    save_file(load_file(place), place, {"cnnsplitter": json.dumps(manifest)})
    needed = rf"has format {FORMAT + 1} but .*; install cnnsplitter 3\.1\.0 or newer$"
    with pytest.raises(StorageError, match=needed):
        KINDS[name].read(place)


def test_every_kind_has_its_file() -> None:
    names = {str(path.relative_to(HERE)) for path in HERE.rglob("*") if path.is_file()}
    beside = {EXPECTED, "run/recipe.json", "run/stopped/recipe.json", "run/stopped/events.jsonl"}
    assert names == KINDS.keys() | beside
    assert sum(path.stat().st_size for path in HERE.rglob("*")) < 300_000
