"""From the facts of runs to one HTML page that loads nothing from anywhere."""

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cnnsplitter.files import replacing
from cnnsplitter.report.drawings import (
    MACS,
    front_of_runs,
    mean_of,
    patch_drawings,
    split_drawings,
)
from cnnsplitter.report.facts import FIGURES, Report
from cnnsplitter.report.numbers import percent
from cnnsplitter.results import Row, write_json

_MODULES = {
    "accuracy": "accuracy",
    "macs": "multiply-adds",
    "kept_kernels": "kernels kept",
    "kept_parameters": "parameters kept",
    "kept_macs": MACS,
    "overlap": "mean overlap",
}
_COSTS = {"multiply_adds": "multiply-adds", "latency_ms": "latency, ms"}
_UNKNOWN = "-"


def render(runs: Mapping[str, Report]) -> str:
    """Return a page that tells the story of each run and, of several, compares them.

    Args:
        runs: The facts of each run by its name, such as its folder.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points, "number": _number}
    source = files("cnnsplitter.report").joinpath("page.html").read_text()
    stories = [_story(i, name, report) for i, (name, report) in enumerate(runs.items())]
    front = front_of_runs(runs) if len(runs) > 1 else None
    template = environment.from_string(source)
    return template.render(
        stories=stories, changes={key: _capital(name) for key, name in FIGURES.items()}, front=front
    )


def write_page(path: Path, runs: Mapping[str, Report]) -> None:
    """Write what ``render`` returns, whole or not at all."""
    page = render(runs)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_report(folder: Path, report: Report) -> None:
    """Write the facts of a run as ``report.json``, and to be read as ``report.html``."""
    write_page(folder / "report.html", {report.title: report})
    write_json(folder / "report.json", report.model_dump(mode="json"))


def _story(number: int, name: str, report: Report) -> dict[str, Any]:
    prefix = f"Run {number + 1}"
    patches = zip(report.patches, report.evidence, strict=True)
    return {
        "id": f"run{number}",
        "name": name,
        "report": report,
        "settings": json.dumps(report.recipe, indent=2),
        "search_settings": json.dumps(report.search, indent=2),
        "search": _search(report),
        "seed": report.recipe.get("seed", _UNKNOWN),
        "kept": mean_of(report, "kept_kernels"),
        "kept_macs": mean_of(report, "kept_macs"),
        "versions": [{"of": name, "version": told} for name, told in report.versions.items()],
        "modules": [_module_row(row) for row in report.modules],
        "ways": [_module_row(row) for row in report.ways],
        "costs": [{_COSTS.get(key, key): row[key] for key in row} for row in report.costs],
        "drawings": list(split_drawings(prefix, report)) if report.classes else [],
        "patches": [
            {
                "row": row,
                "facts": facts,
                "accuracy": [_accuracy(facts.confusion_before), _accuracy(facts.confusion_after)],
                "costs": dict(_patch_costs(report, row)),
                "data": _data_of(report, f"weak model, {row['target']}"),
                "drawings": list(patch_drawings(prefix, facts)),
            }
            for row, facts in patches
        ],
        "data": _data_of(report, "strong model"),
    }


def _module_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        _MODULES.get(key, key): percent(value)
        if key in _MODULES and isinstance(value, float)
        else value
        for key, value in row.items()
    }


def _search(report: Report) -> str:
    """Return the name of the search, with what a published configuration or a tuning adds."""
    name = str(report.search.get("name", _UNKNOWN))
    return f"{name}, compensated" if report.search.get("compensated") else name


def _data_of(report: Report, owner: str) -> Row | None:
    return next((row for row in report.data if row.get("of") == owner), None)


def _accuracy(confusion: list[list[int]]) -> float:
    right = sum(row[i] for i, row in enumerate(confusion))
    return right / max(1, sum(map(sum, confusion)))


def _patch_costs(report: Report, row: Row) -> Iterator[tuple[str, str]]:
    """Yield multiply-adds and latency before and after, the latter with gates if there are any."""
    target = row["target"]
    costs = {str(cost.get("model")): cost for cost in report.costs}
    gated = [name for name in costs if name.startswith(f"gated, runs {target} on ")]
    before, after = (
        costs.get(name, {}) for name in (f"weak, {target}", *gated[-1:], f"patched, {target}")[:2]
    )
    for key in _COSTS:
        ends = before.get(key), after.get(key)
        known = None not in ends
        yield key, " → ".join(map(_number, ends)) if known else _UNKNOWN


def _percent(share: float | None) -> str:
    return _UNKNOWN if share is None else percent(share)


def _points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "\u2212")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
