import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import StorageError
from cnnsplitter.folder_lock import held
from cnnsplitter.results import read_json, write_json
from cnnsplitter.run_folder import claim_folder, file_name, find_runs

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


class TestFindRuns:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A finished run, one that was killed, one that has only begun, and other things."""
        recipe = {"title": "a", "seed": 3, "patch": {}}
        patches = [{"target": "cat", "f1_before": 0.25, "f1_after": 0.5}]
        report = {"strong_accuracy": 0.9, "composed_accuracy": 0.8, "patches": patches}
        last = '{"stage": "search", "done": 2, "total": 9}\n{"time": "20'
        texts: dict[str, str] = {
            "done/recipe.json": json.dumps(recipe),
            "done/report.json": json.dumps(report),
            "more/killed/recipe.json": json.dumps(recipe | {"title": "b"}),
            "more/killed/events.jsonl": last,
            "begun/recipe.json": json.dumps(recipe | {"title": "c"}),
            "pie/recipe.json": '{"title": "Apple pie", "flour": 3}',
            "broken/recipe.json": "{",
        }
        for number, (name, text) in enumerate(texts.items()):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, (1e9 + number, 1e9 + number))
        for place in (tmp_path / "done", tmp_path / "more/killed", tmp_path / "begun"):
            os.utime(place, (1e9, 1e9))
        return tmp_path

    def test_they_are_found_wherever_they_are_the_latest_first(self, folder: Path) -> None:
        runs = find_runs(folder)
        assert [run.title for run in runs] == ["c", "b", "a"]
        assert [run.state for run in runs] == ["begun", "search 2/9", "finished"]
        assert [run.when.timestamp() - 1e9 for run in runs] == [4, 3, 1]
        assert {run.seed for run in runs} == {3}

    def test_finished_ones_have_figures(self, folder: Path) -> None:
        *_, done = find_runs(folder)
        assert done.figures["patches"] == {"cat": (0.25, 0.5)}
        assert done.figures["composed_accuracy"] == 0.8

    def test_a_missing_folder_is_named(self, tmp_path: Path) -> None:
        assert find_runs(tmp_path) == []
        with pytest.raises(StorageError, match="no such folder"):
            find_runs(tmp_path / "none")

    @pytest.mark.parametrize("name", ["recipe.json", "report.json", "events.jsonl"])
    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"\xff", b"7", b"[5]", b"[" * 100_000, b'{"stage": 3}', b'{"title": 1}'),
            *(b'{"patches": 5}', b'{"patches": [5]}', b'{"strong_accuracy": "good"}'),
            b'{"patches": [{"target": 1}, {"target": "cat", "f1_before": "?", "f1_after": 1}]}',
            *(None, "link", "folder"),
        ],
    )
    def test_whatever_lies_in_a_folder_the_others_are_found(
        self, name: str, content: bytes | str | None, folder: Path
    ) -> None:
        before = {run.folder.name for run in find_runs(folder)}
        odd = folder / "odd" / name
        odd.parent.mkdir()
        write_json(odd.with_name("recipe.json"), {"title": "odd", "seed": 0, "patch": {}})
        odd.unlink(missing_ok=True)
        if isinstance(content, bytes):
            odd.write_bytes(content)
        elif content is None:
            os.mkfifo(odd)
        elif content == "link":
            odd.symlink_to(folder / "nowhere")
        else:
            odd.mkdir()
        found = {run.folder.name: run for run in find_runs(folder)}
        assert found.keys() - {"odd"} == before
        assert ("odd" in found) == (name != "recipe.json")
        assert found["begun"].figures == {}
        assert all(run.figures.get("patches", {}) == {} for run in [found.get("odd")] if run)

    def test_splits_are_listed_too(self, tmp_path: Path) -> None:
        event = '{"stage": "search", "done": 1, "total": 3}\n'
        texts = {
            "done/report.json": json.dumps({"title": "Split of m", "recipe": {"seed": 4}}),
            "done/events.jsonl": event,
            "task/subtask.json": "{}",
            "task/events.jsonl": event,
            "begun/events.jsonl": event,
            "foreign/events.jsonl": "GET / 200\n",
        }
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        with held(tmp_path / "begun"):
            running = {run.folder.name: run for run in find_runs(tmp_path)}["begun"]
        assert running.state == f"running ({os.getpid()}), search 1/3"
        found = {run.folder.name: (run.title, run.seed, run.state) for run in find_runs(tmp_path)}
        assert found == {
            "done": ("Split of m", 4, "finished"),
            "task": ("Sub-task", None, "finished"),
            "begun": ("Split", None, "search 1/3"),
        }

    @pytest.mark.parametrize("content", [b"", b"x", b"0", b"-1", b"9" * 30, b"4194305", b"\xff"])
    def test_locks_of_nobody_are_passed_over(self, folder: Path, content: bytes) -> None:
        (folder / "begun" / ".lock").write_bytes(content)
        assert {run.title: run.state for run in find_runs(folder)}["c"] == "begun"

    def test_a_time_of_no_calendar_is_the_latest(self, folder: Path) -> None:
        os.utime(folder / "begun", (2**38, 2**38))
        assert find_runs(folder)[0].folder.name == "begun"

    def test_the_last_event_is_found_behind_very_many(self, folder: Path) -> None:
        with (folder / "begun" / "events.jsonl").open("w") as file:
            file.write('{"stage": "train", "done": 1, "total": 9}\n' * 50_000)
            file.write('{"stage": "search", "done": 5, "total": 9}\n{"stage')
        assert "search 5/9" in {run.state for run in find_runs(folder)}
