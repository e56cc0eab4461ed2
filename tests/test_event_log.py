import json
from pathlib import Path

import pytest

from cnnsplitter.errors import StorageError
from cnnsplitter.event_log import EventLog, last_events
from cnnsplitter.progress import Step


def test_the_log_has_one_object_per_step_and_goes_on_after_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "new" / "events.jsonl"
    log = EventLog(path)
    log(Step("search", 1, 3, {"accuracy": 0.25, "kept": 0.5}))
    log(Step("search", 2, 3))
    path.write_text(path.read_text() + '{"time": "20')
    EventLog(path)(Step("search", 3, 3))
    lines = path.read_text().splitlines()
    assert lines.pop(2) == '{"time": "20'
    events = [json.loads(line) for line in lines]
    assert [event["done"] for event in events] == [1, 2, 3]
    assert events[0].keys() == {"time", "stage", "done", "total", "accuracy", "kept"}


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"events.jsonl: cannot be written"):
        EventLog(tmp_path / "file" / "events.jsonl")(Step("search", 1, 1))


def test_the_end_of_a_log_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    for done in (1, 2):
        log(Step("search", done, 2, {"accuracy": done / 4}))
    with path.open("a") as file:
        file.write('7\n{"stage": 3}\n{"time": "20')
    events = last_events(path)
    assert [(event.stage, event.done, event.total) for event in events] == [
        ("search", 1, 2),
        ("search", 2, 2),
    ]
    assert events[1].model_dump()["accuracy"] == 0.5


def test_of_a_long_log_the_end_is_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = '{"stage": "train", "done": 1, "total": 9}\n'
    path.write_text(line * 100_000 + '{"stage": "search", "done": 5, "total": 9}\n{"stage')
    events = last_events(path)
    assert events[-1].stage == "search"
    assert 1000 < len(events) < 2000


def test_a_log_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        last_events(tmp_path / "events.jsonl")
