import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import cnnsplitter.results
from cnnsplitter.errors import StorageError
from cnnsplitter.results import (
    Row,
    command_line,
    machine,
    read_json,
    versions,
    write_json,
    write_results,
)

ROWS: list[Row] = [{"target": "bird", "f1_before": 0.5, "seed": 0, "ok": True, "none": None}]


def test_results_say_where_they_come_from(tmp_path: Path) -> None:
    write_results(tmp_path / "new" / "results.json", ROWS, "cnnsplitter demo")
    found = json.loads((tmp_path / "new" / "results.json").read_text())
    assert found == {
        "machine": machine(),
        "versions": versions(),
        "command": "cnnsplitter demo",
        "rows": ROWS,
    }
    assert read_json(tmp_path / "new" / "results.json") == found


def test_the_command_is_the_programs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/cnnsplitter", "run", "simcnn-svhn"])
    write_results(tmp_path / "results.json", [])
    assert read_json(tmp_path / "results.json")["command"] == "cnnsplitter run simcnn-svhn"


def test_versions_and_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions()["python"] == platform.python_version()
    assert versions()["torch"].startswith(torch.__version__.split("+")[0])
    assert machine()["cores"] == len(os.sched_getaffinity(0))
    assert all(machine().values())

    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cnnsplitter.results, "version", missing)
    assert versions()["torch"] == "unknown"
    assert not versions().keys() & {"torchvision", "timm", "ray"}


def test_versions_of_optional_libraries_are_told_where_they_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def found(name: str) -> str:
        if name == "ray":
            raise PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(cnnsplitter.results, "version", found)
    told = versions()
    for name in ("numpy", "scikit-learn", "scipy", "pillow", "safetensors", "torchvision", "timm"):
        assert told[name] == f"{name} 1"
    assert "ray" not in told


def test_machines_without_processor_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *args: object) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine()["processor"] == platform.processor()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"new": float("nan")})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize("content", [b"", b'{"rows": [', b"\xff\xfe", b"rows"])
def test_broken_json_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"results\.json: is not valid JSON"):
        read_json(path)


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="nowhere: no such file"):
        read_json(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="is not valid JSON"):
        read_json(tmp_path)


def test_the_command_can_be_repeated_however_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("/usr/bin/cnnsplitter", "/lib/cnnsplitter/__main__.py"):
        monkeypatch.setattr(sys, "argv", [program, "run", "my recipe.toml"])
        assert command_line() == "cnnsplitter run 'my recipe.toml'"


def test_the_version_is_known_where_the_package_is_not_installed() -> None:
    assert versions()["cnnsplitter"] == cnnsplitter.__version__
