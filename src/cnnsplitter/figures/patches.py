"""Figures of what a patch did to a weak model."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from cnnsplitter.figures.style import AFTER, BEFORE, grid, heat_map, percent, styled

Shares = Sequence[Sequence[float]]


@styled
def confusions(before: Shares, after: Shares, classes: Sequence[str]) -> Figure:
    """Draw two confusion matrices side by side, each row as shares of its true class.

    Args:
        before: Counts or shares [true classes][predicted classes] of the weak model.
        after: Likewise of the patched model.
        classes: Names of the classes.
    """
    side = 1.6 + 0.3 * len(classes)
    figure, places = grid(1, 2, 2 * side + 1, side)
    for place, title, matrix in zip(places, ("before", "after"), (before, after), strict=True):
        heat_map(place, [_shares(row) for row in matrix], classes, classes)
        place.set(title=title, xlabel="predicted", ylabel="true")
    return figure


@styled
def score_histograms(edges: Sequence[float], before: Shares, after: Shares, target: str) -> Figure:
    """Draw how the probability of the target class is spread over its own and other images.

    Args:
        edges: Bounds of the bins, from 0 to 1.
        before: Two rows of counts per bin: images of the target class, images of others.
        after: Likewise of the patched model.
        target: Name of the class.
    """
    figure, places = grid(1, 2, 8, 2.6)
    centres = [(low + high) / 2 for low, high in pairwise(edges)]
    width = edges[1] - edges[0]
    for place, title, counts in zip(places, ("before", "after"), (before, after), strict=True):
        for row, name, colour, hatch in (
            (counts[1], "other classes", BEFORE, "//"),
            (counts[0], target, AFTER, ""),
        ):
            place.bar(
                centres, _shares(row), width, color=colour, alpha=0.6, label=name, hatch=hatch
            )
        place.set(title=title, xlabel=f"probability of {target}", ylabel="share of images")
        percent(place, x=True, y=True)
    places[0].legend(fontsize=7)
    return figure


@styled
def calibration_curves(before: Shares, after: Shares, target: str) -> Figure:
    """Draw how often images are of the target class against the probability they are given.

    Args:
        before: Two rows, mean probability and share of the target class in each bin.
        after: Likewise of the patched model.
        target: Name of the class.
    """
    figure, (place,) = grid(1, 1, 3.6, 3.2)
    place.plot([0, 1], [0, 1], color="gray", linewidth=0.6)
    for name, colour, marker, (given, true) in (
        ("before", BEFORE, "s", before),
        ("after", AFTER, "o", after),
    ):
        place.plot(given, true, marker=marker, color=colour, label=name, markersize=4)
    place.set(xlabel=f"probability given to {target}", ylabel=f"share that is {target}")
    percent(place, x=True, y=True)
    place.legend()
    return figure


@styled
def patch_picture(
    changes: Mapping[str, tuple[float, float]], images: Sequence[tuple[Any, str]], title: str
) -> Figure:
    """Draw what a patch changed in one small picture: figures before and after, and examples.

    Args:
        changes: Name of a figure to its share before and after.
        images: Images [H, W] or [H, W, 3] whose prediction became right, with a line of text each.
        title: What was patched.
    """
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    across = max(1, math.ceil(len(images) / 2))
    parts = figure.add_gridspec(2, 4 + across)
    place = figure.add_subplot(parts[:, :4])
    for y, (name, (before, after)) in enumerate(changes.items()):
        place.plot([before, after], [y, y], color="gray", linewidth=1.5, zorder=1)
        place.plot(before, y, "s", color=BEFORE, label="before" if y == 0 else None)
        place.plot(after, y, "o", color=AFTER, label="after" if y == 0 else None)
        text = f"{name}: {before:.0%} → {after:.0%}"
        place.annotate(text, (0, y), (0, 7), textcoords="offset points", size=8)
    place.set(title=title, yticks=[], xlim=(-0.02, 1.04), ylim=(len(changes) - 0.5, -0.8))
    place.spines["left"].set_visible(False)
    percent(place, x=True)
    place.legend(loc="upper right", ncols=2, fontsize=8, borderaxespad=0)
    for number, (image, text) in enumerate(images):
        cell = figure.add_subplot(parts[number // across, 4 + number % across])
        cell.imshow(image, cmap="gray")
        cell.set_title(text, size=8)
        cell.set_axis_off()
    return figure


def _shares(counts: Sequence[float]) -> list[float]:
    whole = sum(counts) or 1
    return [count / whole for count in counts]
