"""The figures of a report, each with a caption and with its numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from cnnsplitter import figures
from cnnsplitter.errors import StorageError
from cnnsplitter.report import numbers
from cnnsplitter.report.evidence import Evidence
from cnnsplitter.report.facts import Report, returned_step
from cnnsplitter.report.numbers import Numbers
from cnnsplitter.sensitivity import Sensitivity

MACS = "multiply-adds kept"
_SPAN = "From the least to the most that a class module keeps of a layer; dot: the mean."
_NAMED = 12
"""Of more points, none is named: the names would hide each other."""


@dataclass(frozen=True)
class Drawing:
    """A figure in a page.

    Attributes:
        title: Of the figure.
        caption: What it shows.
        svg: The figure.
        numbers: What it shows, as a table.
    """

    title: str
    caption: str
    svg: Markup
    numbers: Numbers


def split_drawings(prefix: str, report: Report) -> Iterator[Drawing]:
    """Draw what a search found and how.

    Args:
        prefix: Makes the names of several runs' figures in one page differ.
        report: The facts.
    """
    of_one = bool(report.subtask)
    each, best = _words(report)
    yield _drawing(
        f"{prefix}: kernels that {each} keeps",
        "Share of the strong model's kernels, in per cent, by class and layer.",
        figures.kept_kernels(report.kept, report.classes, report.layers),
        numbers.of_matrix(
            "layer", report.layers, report.classes, list(zip(*report.kept, strict=True))
        ),
    )
    if not of_one:
        yield _drawing(
            f"{prefix}: overlap between class modules",
            "Jaccard index of the kernels kept, in per cent: 100 means the same kernels.",
            figures.overlap_map(report.overlap, report.classes),
            numbers.of_overlap(report.classes, report.overlap),
        )
    if report.history:
        yield _drawing(
            f"{prefix}: progress of the search",
            f"Each step's best {best}, on the search images.",
            figures.search_progress(report.history, of_one=of_one),
            numbers.of_steps(report.history, of_one=of_one),
        )
        yield from _steps_front(prefix, report)
    yield _layers(prefix, report)


def patch_drawings(prefix: str, facts: Evidence) -> Iterator[Drawing]:
    """Draw what a patch changed; ``prefix`` as for ``split_drawings``."""
    before, after = facts.scores_before, facts.scores_after
    yield _drawing(
        f"{prefix}: confusion matrices, patch of {facts.target}",
        "What the images of each class are taken for, in per cent of the class.",
        figures.confusions(facts.confusion_before, facts.confusion_after, facts.classes),
        numbers.of_confusions(facts),
    )
    edges = [i / len(before.histogram[0]) for i in range(len(before.histogram[0]) + 1)]
    yield _drawing(
        f"{prefix}: scores of {facts.target}",
        "How the probability given to the class is spread over its own images and over others.",
        figures.score_histograms(edges, before.histogram, after.histogram, facts.target),
        numbers.of_scores(facts),
    )
    yield _drawing(
        f"{prefix}: calibration of {facts.target}",
        "A point on the line: what is given a probability is that often of the class.",
        figures.calibration_curves(before.calibration, after.calibration, facts.target),
        numbers.of_calibration(facts),
    )


def front_of_runs(runs: Mapping[str, Report]) -> Drawing | None:
    """Draw the class modules of several runs side by side; None if none tells its cost."""
    told = {name: (mean_of(report, "kept_macs"), report) for name, report in runs.items()}
    points = {
        name: (share, report.composed_accuracy)
        for name, (share, report) in told.items()
        if share is not None and report.composed_accuracy is not None
    }
    if not points:
        return None
    costs, accuracies = zip(*points.values(), strict=True)
    return _drawing(
        "All runs: accuracy against multiply-adds",
        "Points: the class modules of each run side by side, or its sub-task's network, on test "
        "images, against the share of the strong model's multiply-adds that one of them needs on "
        "average. Line: what no other run beats in both.",
        figures.pareto_front(costs, accuracies, names=_short(list(points))),
        numbers.of_points("run", points, MACS),
    )


def mean_of(report: Report, figure: str) -> float | None:
    """Return the mean of a figure of the class modules, None where it is not told."""
    told = [row.get(figure) for row in report.modules]
    shares = [float(share) for share in told if isinstance(share, int | float)]
    return sum(shares) / len(shares) if shares else None


def _words(report: Report) -> tuple[str, str]:
    """Return what a report is about, one by one and all together."""
    if report.subtask:
        return "the network", "network"
    return "each class module", "set of class modules"


def _steps_front(prefix: str, report: Report) -> Iterator[Drawing]:
    history, (each, together) = report.history, _words(report)
    best = history[returned_step(history)]
    steps = [step for step in history if not step.early or step is best]
    points = {
        f"step {step.index}{', returned' if step is best else ''}": (step.kept_macs, step.accuracy)
        for step in steps
        if step.kept_macs is not None
    }
    if len(points) < len(steps):
        return
    costs, accuracies = zip(*points.values(), strict=True)
    yield _drawing(
        f"{prefix}: accuracy against multiply-adds",
        f"Points: each step's best {together}, on the search images, against the share of the "
        f"strong model's multiply-adds that {each} needs{'' if report.subtask else ' on average'}. "
        "Line: what no other step beats in both. Large dot: what the search returned.",
        figures.pareto_front(costs, accuracies, steps.index(best)),
        numbers.of_points("step", points, MACS),
    )


def _layers(prefix: str, report: Report) -> Drawing:
    """Draw the sensitivity of the layers if it was measured, else what is kept of them."""
    kept = [sum(shares) / len(shares) for shares in zip(*report.kept, strict=True)]
    if report.sensitivity is not None:
        curves = _sensitivity(report.sensitivity)
        if sorted(curves.groups) != sorted(report.layers):
            raise StorageError("the report's sensitivity: its layers are not those of the search")
        return _drawing(
            f"{prefix}: sensitivity of the layers",
            f"Accuracy of the {'network' if report.subtask else 'composed model'} when one layer "
            "keeps only its most important kernels, the keep-ratios that the search started from, "
            "and the mean share that it ended with.",
            figures.sensitivity_curves(
                curves, report.start_ratios, dict(zip(report.layers, kept, strict=True))
            ),
            numbers.of_curves(curves, report.start_ratios),
        )
    why = (
        "Squares: the keep-ratios that the search started from, which were given, so that no "
        "sensitivity curves were measured."
        if report.start_ratios
        else "This search starts from no keep-ratios, so no sensitivity curves were measured."
    )
    return _drawing(
        f"{prefix}: kernels kept, layer by layer",
        ("Dot: what the network keeps of a layer." if report.subtask else _SPAN) + f" {why}",
        figures.layer_ratios(report.layers, report.kept, report.start_ratios),
        numbers.of_ratios(report.layers, report.kept, report.start_ratios),
    )


def _drawing(title: str, caption: str, figure: Figure, table: Numbers) -> Drawing:
    # The SVG is this package's own, with every name in it escaped by matplotlib.
    svg = Markup(figures.as_svg(figure, title, caption))
    shown = title.partition(": ")[2]
    return Drawing(shown[:1].upper() + shown[1:], caption, svg, table)


def _sensitivity(value: dict[str, Any]) -> Sensitivity:
    try:
        return Sensitivity.from_json(value)
    except StorageError as error:
        raise StorageError(f"the report's sensitivity: {error}") from error


def _short(names: list[str]) -> list[str]:
    """Return the last parts of paths, where they differ and are few."""
    short = [name.rstrip("/").rpartition("/")[2] for name in names]
    return short if len(set(short)) == len(short) <= _NAMED else []
