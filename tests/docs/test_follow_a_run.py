"""What ``docs/follow-a-run.md`` says is done."""

import json
from pathlib import Path

import pytest

from docpages import Page
from shop import succeed

PAGE = Page("docs/follow-a-run.md")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_commands_run() -> None:
    for folder in ("runs", "experiments"):
        Path(folder).mkdir()
    plan, *listings = PAGE.calls[:3]
    assert "units" in succeed(*plan).out
    assert "holds no run" in succeed(*listings[0]).out
    assert succeed(*listings[1]).json == {"runs": []}


def test_the_python_hears_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = PAGE.python
    exec(compile(block, PAGE.name, "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" {")[0] for line in lines] == ["train 1 2", "train 2 2"]
    events = Path("events.jsonl").read_text().splitlines()
    assert [json.loads(event)["done"] for event in events] == [1, 2]
