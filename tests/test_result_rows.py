"""Rows of results files keep where they were made, on whatever machine others are added."""

from pathlib import Path

import pytest
from experiments.result_rows import known_rows, made_by, write_rows

from cnnsplitter.errors import StorageError
from cnnsplitter.results import machine, read_json, versions, write_json


def test_a_row_keeps_its_machine_when_another_adds_one(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    old = {"machine": {"processor": "an older one"}, "versions": {"torch": "1.0"}}
    write_json(out, {**old, "command": "make", "rows": [{"seed": 0}]})
    write_rows(out, [*known_rows(out, "make"), {"seed": 1}], "make")
    first, second = read_json(out)["rows"]
    assert first == {"seed": 0, "processor": "an older one", "torch": "1.0"}
    here = {"processor": machine()["processor"], "torch": versions()["torch"]}
    assert second == {"seed": 1, **here}
    assert f"an older one (1 rows) and {here['processor']} (1 rows)" in made_by(read_json(out))
    assert f"torch 1.0 and {here['torch']}" in made_by(read_json(out))


def test_rows_of_one_machine_are_not_counted(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    write_rows(out, [{"seed": 0}, {"seed": 1}], "make")
    assert f"Made by `make` on {machine()['processor']} with" in made_by(read_json(out))


def test_rows_of_another_command_are_not_taken(tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    assert known_rows(out, "make") == []
    write_rows(out, [], "make")
    with pytest.raises(StorageError, match="choose another --out"):
        known_rows(out, "make --fast")
