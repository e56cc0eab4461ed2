"""Figures of the way from a strong model to its class modules."""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cnnsplitter.figures.style import AFTER, BEFORE, grid, heat_map, percent, styled
from cnnsplitter.sensitivity import Sensitivity

_ACROSS = 4
_CELL = 0.32


class Measured(Protocol):
    """One step of a search, such as a ``Generation``."""

    @property
    def index(self) -> int:
        """Number of the step."""
        ...

    @property
    def accuracy(self) -> float:
        """Of the composed model on the search images."""
        ...

    @property
    def difference(self) -> float:
        """Mean of 1 - Jaccard over the pairs of class modules."""
        ...

    @property
    def kept(self) -> float:
        """Mean share of the kernels that class modules keep."""
        ...

    @property
    def measure(self) -> float:
        """What compares the steps."""
        ...

    @property
    def early(self) -> bool:
        """Whether it saw a part of the images only, so that it does not compare with others."""
        ...


@styled
def sensitivity_curves(
    sensitivity: Sensitivity,
    starts: Mapping[str, Sequence[float]] | None = None,
    kept: Mapping[str, float] | None = None,
) -> Figure:
    """Draw accuracy against the share of kernels kept, one small plot for each layer.

    Args:
        sensitivity: The curves.
        starts: Layer to the keep-ratios that a search starts from, which are marked; by default
            those chosen from the curves.
        kept: Layer to the share that the search ended with, which is marked by a line.
    """
    count = len(sensitivity.groups)
    rows = math.ceil(count / _ACROSS)
    figure, places = grid(rows, min(count, _ACROSS), 8, 0.5 + 1.6 * rows)
    starts = sensitivity.start_ratios() if starts is None else starts
    low = sensitivity.accuracy.min().item()
    for place, name, curve in zip(
        places, sensitivity.groups, sensitivity.accuracy.tolist(), strict=False
    ):
        place.plot(sensitivity.ratios, curve, color=AFTER)
        place.axhline(sensitivity.baseline, color="gray", linewidth=0.6)
        chosen = starts.get(name, ())
        heights = np.interp(chosen, sensitivity.ratios, curve)
        place.plot(chosen, heights, "o", color=BEFORE, markersize=4)
        if kept is not None:
            place.axvline(kept[name], color=AFTER, linestyle=":")
        place.set_title(name, size=7)
        place.set(xlim=(0, 1.03), ylim=(low - 0.03, 1.03))
        percent(place, x=True, y=True)
    for place in places[count:]:
        place.set_visible(False)
    ended = "" if kept is None else "; dotted line: where it ended"
    figure.supxlabel(
        f"share of the layer's kernels kept (dots: where a search starts{ended})", size=8
    )
    figure.supylabel("accuracy", size=8)
    return figure


@styled
def layer_ratios(
    layers: Sequence[str],
    kept: Sequence[Sequence[float]],
    starts: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Draw for each layer the shares of kernels that class modules keep of it.

    Args:
        layers: Their names.
        kept: [class modules][layers], between 0 and 1.
        starts: Layer to the keep-ratios that the search started from, if it starts from any.
    """
    figure, (place,) = grid(1, 1, 6.5, 1.4 + 0.24 * len(layers))
    for y, (name, shares) in enumerate(zip(layers, zip(*kept, strict=True), strict=True)):
        place.plot([min(shares), max(shares)], [y, y], color=AFTER, linewidth=2)
        place.plot(sum(shares) / len(shares), y, "o", color=AFTER, markersize=5)
        chosen = (starts or {}).get(name, ())
        place.plot(chosen, [y] * len(chosen), "s", color=BEFORE, markersize=5, fillstyle="none")
    place.set_yticks(range(len(layers)), layers)
    place.set(xlim=(-0.02, 1.03), ylim=(len(layers) - 0.5, -0.5))
    place.set_xlabel("share of the layer's kernels kept")
    percent(place, x=True)
    return figure


@styled
def search_progress(history: Sequence[Measured], *, of_one: bool = False) -> Figure:
    """Draw accuracy, overlap and kept share of the best ensemble against the step of the search.

    Args:
        history: The steps.
        of_one: One network is searched, that of a sub-task, and so there is no overlap.
    """
    whole = "accuracy" if of_one else "accuracy of the composed model"
    values = {whole: [step.accuracy for step in history]}
    if not of_one:
        values["overlap of the class modules"] = [1 - step.difference for step in history]
    values["kernels kept"] = [step.kept for step in history]
    figure, places = grid(1, len(values), 8, 2.4)
    comparable = [step for step in history if not step.early] or history
    returned = history.index(max(comparable, key=lambda step: step.measure))
    steps = [step.index for step in history]
    for place, (title, curve) in zip(places, values.items(), strict=True):
        place.plot(steps, curve, color=AFTER)
        place.plot(steps[returned], curve[returned], "o", color=BEFORE)
        place.set_title(title)
        place.set_xlabel("step (dot: returned)")
        place.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        percent(place, y=True)
    return figure


@styled
def kept_kernels(
    shares: Sequence[Sequence[float]], classes: Sequence[str], layers: Sequence[str]
) -> Figure:
    """Draw the share of kernels that each class module keeps of each layer.

    Args:
        shares: [classes][layers], between 0 and 1.
        classes: Names of the rows.
        layers: Names of the columns.
    """
    width, height = 2.5 + _CELL * len(layers), 1.8 + _CELL * len(classes)
    figure, (place,) = grid(1, 1, min(11, width), height)
    heat_map(place, shares, classes, layers)
    return figure


@styled
def overlap_map(overlap: Sequence[Sequence[float]], classes: Sequence[str]) -> Figure:
    """Draw the Jaccard index of the kernels that every two class modules keep."""
    side = 1.8 + _CELL * len(classes)
    figure, (place,) = grid(1, 1, side + 0.8, side)
    heat_map(place, overlap, classes, classes)
    return figure


@styled
def pareto_front(
    costs: Sequence[float],
    accuracies: Sequence[float],
    chosen: int | None = None,
    *,
    cost: str = "multiply-adds",
    names: Sequence[str] = (),
) -> Figure:
    """Draw composed accuracy against cost, and the front that nothing else beats.

    Args:
        costs: As shares of the strong model's.
        accuracies: Of the composed models, between 0 and 1.
        chosen: Position of the one that was taken.
        cost: What the costs are.
        names: Written beside the points, one for each if any.
    """
    figure, (place,) = grid(1, 1, 4.5, 3)
    points = sorted(zip(costs, accuracies, strict=True))
    highest = list(accumulate((accuracy for _, accuracy in points), max))
    place.plot(costs, accuracies, "o", color="gray", markersize=3)
    place.step([cost for cost, _ in points], highest, where="post", color=AFTER)
    for x, y, name in zip(costs, accuracies, names, strict=False):
        place.annotate(name, (x, y), (4, 4), textcoords="offset points", size=8)
    if chosen is not None:
        place.plot(costs[chosen], accuracies[chosen], "o", color=BEFORE)
    place.set(xlabel=f"share of the strong model's {cost}", ylabel="accuracy")
    place.xaxis.set_major_locator(MaxNLocator(5))
    percent(place, x=True, y=True)
    return figure
