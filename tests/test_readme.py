"""The README's Python is run as it stands, and its table is the recorded one."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from experiments.patch_first import HERE
from experiments.patch_page import summarised

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "patched.safetensors").is_file()
    assert names["again"].classes == names["patched"].classes  # type: ignore[attr-defined]


def test_the_set_up_is_two_commands() -> None:
    assert blocks("bash")[0].splitlines() == [
        "pip install . && cnnsplitter demo",
        "pip install '.[test]' && pytest",
    ]


def test_the_picture_is_one_that_the_report_makes_and_says_its_figures() -> None:
    svg = ET.fromstring((ROOT / "docs/demo.svg").read_text())
    figures = re.findall(r"(recall|F1) (\d+)% to (\d+)%", svg.get("aria-label") or "")
    assert len(figures) == 2
    told = ", ".join(f"{name} {before} % to {after} %" for name, before, after in figures)
    assert f"![Before and after a patch of the digit 8: {told}](docs/demo.svg)" in README
    assert "--picture" in README


def test_the_table_is_the_recorded_one() -> None:
    assert "<!-- patches -->\n| weak models |" in README
    assert summarised(README, HERE / "results") == README
