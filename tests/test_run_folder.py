from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import StorageError
from cnnsplitter.results import read_json
from cnnsplitter.run_folder import claim_folder, file_name

RECIPE: dict[str, Any] = {"title": "one", "seed": 0}
OTHER = RECIPE | {"seed": 1}
WRITTEN = ("strong.safetensors", "weak-a.checkpoint", "modules/a.safetensors", "report.json")
FOREIGN = ("notes.txt", "modules/notes.txt", "data/strong.safetensors", "weak.safetensors")


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def fill(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_a_new_or_empty_folder_is_claimed(tmp_path: Path) -> None:
    for folder in (tmp_path / "new" / "run", tmp_path):
        claim_folder(folder, RECIPE, force=folder == tmp_path / "new" / "run")
        assert read_json(folder / "recipe.json") == RECIPE
        if folder != tmp_path:
            (folder / "recipe.json").unlink()
            folder.rmdir()
            folder.parent.rmdir()


def test_a_run_of_the_same_recipe_goes_on(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    fill(tmp_path, WRITTEN)
    before, written = contents(tmp_path), (tmp_path / "recipe.json").stat().st_mtime_ns
    claim_folder(tmp_path, RECIPE)
    assert contents(tmp_path) == before
    assert (tmp_path / "recipe.json").stat().st_mtime_ns == written


def test_a_run_of_another_recipe_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    before = contents(tmp_path)
    with pytest.raises(StorageError, match=r"holds a run with other settings; .* or --force"):
        claim_folder(tmp_path, OTHER)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("recipe", [RECIPE, OTHER])
def test_force_removes_only_what_runs_write(recipe: dict[str, Any], tmp_path: Path) -> None:
    claim_folder(tmp_path, RECIPE)
    fill(tmp_path, WRITTEN + FOREIGN)
    claim_folder(tmp_path, recipe, force=True)
    assert read_json(tmp_path / "recipe.json") == recipe
    assert contents(tmp_path).keys() == {*FOREIGN, "recipe.json"}


@pytest.mark.parametrize("marker", [None, "[]", '{"title": "Apple pie", "flour": 3}'])
def test_folders_without_a_run_are_never_touched(marker: str | None, tmp_path: Path) -> None:
    fill(tmp_path, WRITTEN + FOREIGN)
    if marker is not None:
        (tmp_path / "recipe.json").write_text(marker)
    before = contents(tmp_path)
    for force in (False, True):
        with pytest.raises(StorageError, match="is not empty and holds no run"):
            claim_folder(tmp_path, RECIPE, force=force)
    assert contents(tmp_path) == before


def test_broken_recipes_and_files_in_the_way_are_named(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(StorageError, match=r"recipe\.json: is not valid JSON"):
        claim_folder(tmp_path, RECIPE, force=True)
    with pytest.raises(StorageError, match="cannot be written"):
        claim_folder(tmp_path / "recipe.json", RECIPE)
    assert contents(tmp_path) == {"recipe.json": "{"}


names = st.text(st.characters(), max_size=12)


@given(names)
def test_file_names_stay_in_the_folder(name: str) -> None:
    found = file_name(name)
    assert all(c.isascii() and (c.isalnum() or c in "-_~%") for c in found)


@given(st.lists(names, unique=True, min_size=2, max_size=8))
def test_file_names_differ(several: list[str]) -> None:
    assert len({file_name(name) for name in several}) == len(several)


def test_known_file_names() -> None:
    assert [file_name(name) for name in ("bird", "..", "a/b", "a%2Fb", "\u2603", "&03", "a b")] == [
        "bird",
        "%2E%2E",
        "a%2Fb",
        "a%252Fb",
        "%E2%98%83",
        "%2603",
        "a%20b",
    ]
    assert file_name("\udc80") != file_name("?")


def test_long_names_are_cut_and_stay_different() -> None:
    first, second = ("k" * 300 + end for end in "ab")
    assert len(file_name(first)) == len(file_name("\u2603" * 90)) == 200
    assert file_name(first) != file_name(second)
    assert file_name("k" * 200) == "k" * 200
