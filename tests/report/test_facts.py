"""Reports from anywhere are shown, or refused in one line."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnsplitter.figures
import pages
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.report import find_reports, read_report
from shop import call

FACTS = pages.facts("cat", "A run").model_dump(mode="json")
JUNK: list[Any] = [
    None,
    7,
    -1,
    1e400,
    "x",
    "\ud800",
    "<b>",
    [],
    [[]],
    [[1, 2], [3]],
    {},
    {"a": [1]},
    True,
]


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnnsplitter.figures, "as_svg", lambda *figure: "<svg></svg>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a nested value, of long lists the first and last."""
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list) and value:
        keys = sorted({0, len(value) - 1})
    for key in keys:
        yield (*path, key)
        yield from places(value[key], (*path, key))


PLACES = sorted(places(FACTS), key=str)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(PLACES), st.sampled_from(["drop", *JUNK]))
def test_a_report_with_a_strange_value(folder: Path, place: tuple[Any, ...], junk: Any) -> None:
    facts = copy.deepcopy(FACTS)
    holder = facts
    for key in place[:-1]:
        holder = holder[key]
    if junk == "drop":
        del holder[place[-1]]
    else:
        holder[place[-1]] = junk
    (folder / "report.json").write_text(json.dumps(facts))
    page = folder / "page.html"
    done = call("report", folder, "--out", page, "--picture", folder / "p.svg", "--force")
    assert done.code in (0, 2), done.err
    assert (done.code == 0) == (done.err == "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kept": [[0.5]]}, "kept: must have 10 rows of 12 values"),
        ({"overlap": []}, "overlap: must have 10 rows of 10 values"),
        ({"patches": [{"target": "cat"}]}, "patches: a figure is missing"),
        ({"evidence": []}, "evidence: must tell of each patch"),
        ({"classes": [], "layers": [], "kept": [], "overlap": []}, "classes: there are none"),
        ({"layers": [], "kept": [[]] * 10}, "layers: there are none"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(FACTS | change))
    with pytest.raises(StorageError, match=message):
        read_report(tmp_path / "report.json")


def test_the_reports_of_a_front_are_those_of_its_splits(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(FACTS | {"title": name}))
    points = [{"folder": "b"}, {"folder": "a"}]
    (tmp_path / "pareto.json").write_text(json.dumps({"points": points}))
    found = find_reports(tmp_path)
    assert list(found) == [str(tmp_path / "b"), str(tmp_path / "a")]
    assert [report.title for report in found.values()] == ["b", "a"]
    assert list(find_reports(tmp_path / "a")) == [str(tmp_path / "a")]


@pytest.mark.parametrize("value", [7, [], {}, {"points": 7}, {"points": [{}]}, {"points": []}])
def test_what_is_no_front_is_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "pareto.json").write_text(json.dumps(value))
    with pytest.raises(StorageError, match=r"pareto\.json: is no front of a split"):
        find_reports(tmp_path)


def test_a_split_of_a_front_that_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "pareto.json").write_text('{"points": [{"folder": "keep-0.5"}]}')
    with pytest.raises(SettingsError, match=r"keep-0\.5: holds no finished run"):
        find_reports(tmp_path)
