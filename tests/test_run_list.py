"""Runs and splits are found in a folder, whatever else lies there."""

import json
import os
from pathlib import Path

import pytest

from cnnsplitter.errors import StorageError
from cnnsplitter.folder_lock import held
from cnnsplitter.results import write_json
from cnnsplitter.run_list import find_runs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
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


def test_they_are_found_wherever_they_are_the_latest_first(folder: Path) -> None:
    runs = find_runs(folder)
    assert [run.title for run in runs] == ["c", "b", "a"]
    assert [run.state for run in runs] == ["begun", "search 2/9", "finished"]
    assert [run.when.timestamp() - 1e9 for run in runs] == [4, 3, 1]
    assert {(run.kind, run.seed) for run in runs} == {("run", 3)}


def test_finished_ones_have_figures(folder: Path) -> None:
    *_, done = find_runs(folder)
    assert done.figures["patches"] == {"cat": (0.25, 0.5)}
    assert done.figures["composed_accuracy"] == 0.8


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
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
    name: str, content: bytes | str | None, folder: Path
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


def test_splits_are_listed_too(tmp_path: Path) -> None:
    event = '{"stage": "search", "done": 1, "total": 3}\n'
    report = {"title": "Split of m", "recipe": {"seed": 4}}
    texts = {
        "done/report.json": json.dumps(report),
        "done/events.jsonl": event,
        "task/report.json": json.dumps(report | {"title": "Sub-task of m", "subtask": ["a", "b"]}),
        "task/events.jsonl": event,
        "begun/events.jsonl": event,
        "foreign/events.jsonl": "GET / 200\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with held(tmp_path / "begun"):
        running = {run.folder.name: run for run in find_runs(tmp_path)}["begun"]
    assert running.process == os.getpid()
    found = {run.folder.name: run for run in find_runs(tmp_path)}
    assert all(run.process is None for run in found.values())
    assert {name: (run.kind, run.title, run.seed, run.state) for name, run in found.items()} == {
        "done": ("split", "Split of m", 4, "finished"),
        "task": ("sub-task", "Sub-task of m", 4, "finished"),
        "begun": ("split", "Split", None, "search 1/3"),
    }


@pytest.mark.parametrize("content", [b"", b"x", b"0", b"-1", b"9" * 30, b"4194305", b"\xff"])
def test_locks_of_nobody_are_passed_over(folder: Path, content: bytes) -> None:
    (folder / "begun" / ".lock").write_bytes(content)
    assert {run.title: run.state for run in find_runs(folder)}["c"] == "begun"


def test_a_time_of_no_calendar_is_the_latest(folder: Path) -> None:
    os.utime(folder / "begun", (2**38, 2**38))
    assert find_runs(folder)[0].folder.name == "begun"


def test_the_last_event_is_found_behind_very_many(folder: Path) -> None:
    with (folder / "begun" / "events.jsonl").open("w") as file:
        file.write('{"stage": "train", "done": 1, "total": 9}\n' * 50_000)
        file.write('{"stage": "search", "done": 5, "total": 9}\n{"stage')
    assert "search 5/9" in {run.state for run in find_runs(folder)}
