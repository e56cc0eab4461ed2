"""The numbers behind each figure of a report, as tables for those who cannot see it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from cnnsplitter.report.evidence import Evidence
from cnnsplitter.report.facts import Step, returned_step
from cnnsplitter.sensitivity import Sensitivity

MOST_ROWS = 60
MOST_COLUMNS = 20
"""Wider tables would be read by nobody: they tell the least, the mean and the most of each row."""

Shares = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Numbers:
    """A table.

    Attributes:
        columns: Their names; the first is that of what the rows are.
        rows: Of as many texts, the first of which names the row.
        remark: What was left out, if anything was.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    remark: str = ""


def percent(share: float) -> str:
    """Return a share between 0 and 1 in per cent."""
    return f"{100 * share:.1f}\u00a0%"


def of_matrix(name: str, rows: Sequence[str], columns: Sequence[str], shares: Shares) -> Numbers:
    """Return the table of a heat map.

    Args:
        name: What the rows are.
        rows: Their names.
        columns: Names of the columns.
        shares: [rows][columns], between 0 and 1.
    """
    if len(columns) <= MOST_COLUMNS:
        cells = [(row, *map(percent, line)) for row, line in zip(rows, shares, strict=True)]
        return _thinned(Numbers((name, *columns), tuple(cells)))
    told = [
        (
            row,
            _place(min(line), line, columns),
            percent(_mean(line)),
            _place(max(line), line, columns),
        )
        for row, line in zip(rows, shares, strict=True)
    ]
    return _thinned(Numbers((name, "least", "mean", "most"), tuple(told)))


def of_overlap(classes: Sequence[str], overlap: Shares) -> Numbers:
    """Return how much every two class modules share; of many classes, without themselves."""
    if len(classes) <= MOST_COLUMNS:
        return of_matrix("class", classes, classes, overlap)
    cells = []
    for i, (name, line) in enumerate(zip(classes, overlap, strict=True)):
        others, shared = (*classes[:i], *classes[i + 1 :]), (*line[:i], *line[i + 1 :])
        most = _place(max(shared), shared, others)
        cells.append((name, _place(min(shared), shared, others), percent(_mean(shared)), most))
    return _thinned(Numbers(("class", "least", "mean", "most"), tuple(cells)))


def of_steps(history: Sequence[Step], *, of_one: bool = False) -> Numbers:
    """Return the progress of a search; the step whose class modules it returned says so.

    Args:
        history: The steps.
        of_one: See ``figures.search_progress``.
    """
    returned = returned_step(history)
    rows = [
        (
            f"{step.index}{', returned' if i == returned else ''}",
            percent(step.accuracy),
            *[percent(1 - step.difference)] * (not of_one),
            percent(step.kept),
        )
        for i, step in enumerate(history)
    ]
    columns = ("step", "accuracy", *["overlap"] * (not of_one), "kernels kept")
    return _thinned(Numbers(columns, tuple(rows)), {returned})


def of_points(name: str, points: Mapping[str, tuple[float, float]], cost: str) -> Numbers:
    """Return points of cost and accuracy by their names."""
    rows = [(key, percent(x), percent(y)) for key, (x, y) in points.items()]
    return _thinned(Numbers((name, cost, "accuracy"), tuple(rows)))


def of_ratios(
    layers: Sequence[str], kept: Shares, starts: Mapping[str, Sequence[float]]
) -> Numbers:
    """Return per layer what class modules keep of it and, where known, the start ratios."""
    columns = ("layer", "least kept", "mean kept", "most kept", *["starts from"] * bool(starts))
    rows = []
    for layer, shares in zip(layers, zip(*kept, strict=True), strict=True):
        told = (percent(min(shares)), percent(_mean(shares)), percent(max(shares)))
        rows.append((layer, *told, *[_listed(starts.get(layer, ()))] * bool(starts)))
    return _thinned(Numbers(columns, tuple(rows)))


def of_curves(curves: Sensitivity, starts: Mapping[str, Sequence[float]]) -> Numbers:
    """Return per layer the accuracy at each keep-ratio, and the start ratios."""
    columns = ("layer", *(f"{100 * ratio:.0f} % kept" for ratio in curves.ratios), "starts from")
    rows = [
        (layer, *map(percent, line), _listed(starts.get(layer, ())))
        for layer, line in zip(curves.groups, curves.accuracy.tolist(), strict=True)
    ]
    return _thinned(Numbers(columns, tuple(rows)))


def of_confusions(facts: Evidence) -> Numbers:
    """Return what the images of each class are taken for before and after, in per cent."""
    pairs = zip(facts.confusion_before, facts.confusion_after, strict=True)
    shares = [(_shares(before), _shares(after)) for before, after in pairs]
    if len(facts.classes) > MOST_COLUMNS:
        rows = [
            (name, percent(before[i]), percent(after[i]))
            for i, (name, (before, after)) in enumerate(zip(facts.classes, shares, strict=True))
        ]
        return _thinned(Numbers(("class", "right before", "right after"), tuple(rows)))
    changes = [
        (name, *(f"{100 * a:.0f} → {100 * b:.0f}" for a, b in zip(before, after, strict=True)))
        for name, (before, after) in zip(facts.classes, shares, strict=True)
    ]
    return Numbers(("true class", *facts.classes), tuple(changes))


def of_scores(facts: Evidence) -> Numbers:
    """Return how many images of the class and of others get a probability, before and after."""
    columns = ("probability", "class, before", "others, before", "class, after", "others, after")
    counts = (*facts.scores_before.histogram, *facts.scores_after.histogram)
    bins = len(counts[0])
    rows = [
        (f"{percent(i / bins)} to {percent((i + 1) / bins)}", *(f"{row[i]:,}" for row in counts))
        for i in range(bins)
    ]
    return _thinned(Numbers(columns, tuple(rows)))


def of_calibration(facts: Evidence) -> Numbers:
    """Return the mean probability given and the share that is of the class, bin by bin."""
    rows = [
        (f"{when}, {number}", percent(given), percent(true))
        for when, scores in (("before", facts.scores_before), ("after", facts.scores_after))
        for number, (given, true) in enumerate(zip(*scores.calibration, strict=True), 1)
    ]
    return _thinned(Numbers(("point", "probability given", "share that is"), tuple(rows)))


def _thinned(numbers: Numbers, always: Collection[int] = ()) -> Numbers:
    step = math.ceil(len(numbers.rows) / MOST_ROWS)
    if step <= 1:
        return numbers
    kept = sorted({*range(0, len(numbers.rows), step), len(numbers.rows) - 1, *always})
    remark = f"{len(kept)} of {len(numbers.rows):,} rows, evenly spread."
    return replace(numbers, rows=tuple(numbers.rows[i] for i in kept), remark=remark)


def _place(share: float, line: Sequence[float], names: Sequence[str]) -> str:
    return f"{percent(share)}, {names[line.index(share)]}"


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{100 * ratio:.0f} %" for ratio in ratios) or "-"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _shares(counts: Sequence[float]) -> list[float]:
    whole = sum(counts) or 1
    return [count / whole for count in counts]
