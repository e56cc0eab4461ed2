"""From the facts of runs to one HTML page that loads nothing from anywhere."""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from cnnsplitter import figures
from cnnsplitter.errors import StorageError
from cnnsplitter.files import replacing
from cnnsplitter.report.evidence import Evidence
from cnnsplitter.report.facts import FIGURES, Report
from cnnsplitter.sensitivity import Sensitivity

_MODULES = {
    "kept_kernels": "kernels kept",
    "kept_parameters": "parameters kept",
    "kept_macs": "multiply-adds kept",
    "overlap": "mean overlap",
}
_COSTS = {"multiply_adds": "multiply-adds", "latency_ms": "latency, ms"}


def render(runs: Mapping[str, Report]) -> str:
    """Return a page that tells the story of each run and, of several, compares them.

    Args:
        runs: The facts of each run by its name, such as its folder.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "points": _points, "number": _number}
    source = files("cnnsplitter.report").joinpath("page.html").read_text()
    stories = [_story(i, name, report) for i, (name, report) in enumerate(runs.items())]
    front = _comparison(runs) if len(runs) > 1 else None
    template = environment.from_string(source)
    return template.render(
        stories=stories, changes={key: _capital(name) for key, name in FIGURES.items()}, front=front
    )


def write_page(path: Path, runs: Mapping[str, Report]) -> None:
    """Write what ``render`` returns, whole or not at all."""
    page = render(runs)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _story(number: int, name: str, report: Report) -> dict[str, Any]:
    return {
        "id": f"run{number}",
        "name": name,
        "report": report,
        "settings": json.dumps(report.recipe, indent=2),
        "search_settings": json.dumps(report.search, indent=2),
        "kept": _kept(report),
        "modules": [_module_row(row) for row in report.modules],
        "costs": [{_COSTS.get(key, key): row[key] for key in row} for row in report.costs],
        "search": list(_search_figures(f"Run {number + 1}", report)),
        "evidence": [
            {"facts": facts, "figures": list(_patch_figures(f"Run {number + 1}", facts))}
            for facts in report.evidence
        ],
    }


def _module_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        _MODULES.get(key, key): _percent(value)
        if key in _MODULES and isinstance(value, float)
        else value
        for key, value in row.items()
    }


def _search_figures(prefix: str, report: Report) -> Iterable[dict[str, Any]]:
    yield _figure(
        f"{prefix}: kernels that each class module keeps",
        "Share of the strong model's kernels, in per cent, by class and layer.",
        figures.kept_kernels(report.kept, report.classes, report.layers),
    )
    yield _figure(
        f"{prefix}: overlap between class modules",
        "Jaccard index of the kernels kept, in per cent: 100 means the same kernels.",
        figures.overlap_map(report.overlap, report.classes),
    )
    if report.history:
        yield _figure(
            f"{prefix}: progress of the search",
            "Each step's best set of class modules, on the search images.",
            figures.search_progress(report.history),
        )
        yield _front(prefix, report)
    if report.sensitivity is not None:
        curves = _sensitivity(report.sensitivity)
        yield _figure(
            f"{prefix}: sensitivity of the layers",
            "Accuracy of the composed model when one layer keeps only its most important kernels.",
            figures.sensitivity_curves(curves),
        )


def _front(prefix: str, report: Report) -> dict[str, Any]:
    steps = report.history
    chosen = steps.index(max(steps, key=lambda step: step.measure))
    return _figure(
        f"{prefix}: accuracy against size",
        "Points: each step's best set of class modules, on the search images. Line: what no other "
        "step beats in both. Large dot: what the search returned.",
        figures.pareto_front(
            [step.kept for step in steps],
            [step.accuracy for step in steps],
            chosen,
            cost="kernels",
        ),
    )


def _comparison(runs: Mapping[str, Report]) -> dict[str, Any]:
    reports = list(runs.values())
    return _figure(
        "All runs: accuracy against size",
        "Points: the class modules of each run side by side, on its test images. Line: what no "
        "other run beats in both.",
        figures.pareto_front(
            [_kept(report) for report in reports],
            [report.composed_accuracy for report in reports],
            cost="kernels",
        ),
    )


def _patch_figures(prefix: str, facts: Evidence) -> Iterable[dict[str, Any]]:
    before, after = facts.scores_before, facts.scores_after
    yield _figure(
        f"{prefix}: confusion matrices, patch of {facts.target}",
        "What the images of each class are taken for, in per cent of the class.",
        figures.confusions(facts.confusion_before, facts.confusion_after, facts.classes),
    )
    edges = [i / len(before.histogram[0]) for i in range(len(before.histogram[0]) + 1)]
    yield _figure(
        f"{prefix}: scores of {facts.target}",
        "How the probability given to the class is spread over its own images and over others.",
        figures.score_histograms(edges, before.histogram, after.histogram, facts.target),
    )
    yield _figure(
        f"{prefix}: calibration of {facts.target}",
        "A point on the line: what is given a probability is that often of the class.",
        figures.calibration_curves(before.calibration, after.calibration, facts.target),
    )


def _figure(title: str, caption: str, figure: Figure) -> dict[str, Any]:
    # The SVG is this package's own, with every name in it escaped by matplotlib.
    svg = Markup(figures.as_svg(figure, title, caption))
    return {"title": _capital(title.partition(": ")[2]), "caption": caption, "svg": svg}


def _sensitivity(value: dict[str, Any]) -> Sensitivity:
    try:
        return Sensitivity.from_json(value)
    except StorageError as error:
        raise StorageError(f"the report's sensitivity: {error}") from error


def _kept(report: Report) -> float:
    shares = (row.get("kept_kernels") for row in report.modules)
    return _mean([share for share in shares if isinstance(share, float)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _points(change: float) -> str:
    return f"{100 * change:+.1f}".replace("-", "\u2212")


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
