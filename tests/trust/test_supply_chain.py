"""What the package is built on: every dependency has a lowest version, which CI's list keeps."""

import re
import tomllib
from pathlib import Path

import pytest
from scripts.lowest_versions import PROJECT, lowest

ROOT = PROJECT.parent


def requirements() -> list[str]:
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(line for lines in extras for line in lines)]


def test_every_dependency_has_a_lowest_version() -> None:
    assert all("==" in pin for pin in lowest(requirements()))
    with pytest.raises(ValueError, match="no lowest version"):
        lowest(["torch"])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def test_the_locked_versions_are_supported_ones() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if line and line[0] != "#")
    floors = dict(pin.split("==") for pin in lowest(requirements()))
    assert floors.keys() <= locked.keys()
    for name, floor in floors.items():
        assert numbers(locked[name]) >= numbers(floor), name


def test_the_threat_model_is_told() -> None:
    text = Path(ROOT / "SECURITY.md").read_text()
    for words in ("--trust-pickle", "stranger", "recipe", "report a weakness"):
        assert words in text
