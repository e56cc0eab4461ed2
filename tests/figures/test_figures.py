"""Figures show the data they are given, in this package's style, and leave matplotlib as it was."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from cnnsplitter import figures
from cnnsplitter.search import Generation
from cnnsplitter.sensitivity import Sensitivity

CURVES = Sensitivity(("a", "b"), (0.5, 1.0), torch.tensor([[0.2, 0.9], [0.9, 0.9]]))
HISTORY = [Generation(i, 0.5 + i / 10, 0.4, 0.8 - i / 10, 0.0, [3, 9, 1][i], 5) for i in range(3)]
NAMES = ("<b>", "$x$")
SQUARE = [[1.0, 0.25], [0.0, 0.5]]
ALL: dict[str, Callable[[], Figure]] = {
    "sensitivity": lambda: figures.sensitivity_curves(CURVES),
    "started": lambda: figures.sensitivity_curves(CURVES, {"a": [0.75]}, {"a": 0.5, "b": 0.6}),
    "layers": lambda: figures.layer_ratios(NAMES, [[0.2, 0.5], [0.4, 1.0]], {"<b>": [0.3]}),
    "progress": lambda: figures.search_progress(HISTORY),
    "kept": lambda: figures.kept_kernels(SQUARE, NAMES, NAMES),
    "overlap": lambda: figures.overlap_map(SQUARE, NAMES),
    "pareto": lambda: figures.pareto_front([0.5, 0.2, 0.9], [0.8, 0.6, 0.7], chosen=0),
    "confusions": lambda: figures.confusions([[3, 1], [0, 0]], [[4, 0], [0, 2]], NAMES),
    "scores": lambda: figures.score_histograms(
        [0, 0.5, 1], [[1, 3], [4, 0]], [[0, 4], [4, 0]], "$"
    ),
    "picture": lambda: figures.patch_picture(
        {"F1": (0.2, 0.7), "recall": (0.1, 0.5)}, [(np.eye(4), "$x$ → <b>")] * 3, "Patch of $x$"
    ),
    "calibration": lambda: figures.calibration_curves(SQUARE, SQUARE, "$x$"),
}


def points(axes: Axes, line: int) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(axes.lines[line].get_xydata())]


def texts(figure: Figure) -> set[str]:
    figure.canvas.draw_idle()
    return {text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)}


@pytest.mark.parametrize("name", ALL)
def test_svg_is_well_formed_named_and_the_same_each_time(name: str) -> None:
    before = dict(mpl.rcParams)
    svg = figures.as_svg(ALL[name](), 'A "title" & <more>', "What it shows")
    assert svg == figures.as_svg(ALL[name](), 'A "title" & <more>', "What it shows")
    root = ET.fromstring(svg.replace("xlink:", ""))
    assert root.get("aria-label") == 'A "title" & <more>. What it shows'
    assert "currentColor" in svg
    assert dict(mpl.rcParams) == before


def test_sensitivity_marks_where_a_search_starts() -> None:
    first, second = figures.sensitivity_curves(CURVES).axes[:2]
    assert np.allclose(points(first, 2), [(1.0, 0.9)])
    assert [x for x, _ in points(second, 2)] == [0.5, 1.0]


def test_sensitivity_marks_given_starts_and_where_the_search_ended() -> None:
    first, second = ALL["started"]().axes[:2]
    assert np.allclose(points(first, 2), [(0.75, 0.55)])
    assert points(second, 2) == []
    assert [points(axes, 3)[0][0] for axes in (first, second)] == [0.5, 0.6]


def test_layers_show_what_is_kept_and_the_start() -> None:
    (place,) = ALL["layers"]().axes
    assert [x for x, _ in points(place, 0)] == [0.2, 0.4]
    assert np.allclose(points(place, 1), [(0.3, 0.0)])
    assert points(place, 2) == [(0.3, 0.0)]
    assert points(place, 4) == [(0.75, 1.0)]
    assert points(place, 5) == []


def test_the_points_of_a_front_may_have_names() -> None:
    assert {"x", "<y>"} <= texts(figures.pareto_front([0.5, 0.2], [0.8, 0.6], names=("x", "<y>")))


def test_progress_marks_no_step_that_saw_a_part_of_the_images() -> None:
    history = [replace(HISTORY[1], early=True), HISTORY[0], HISTORY[2]]
    accuracy = figures.search_progress(history).axes[0]
    assert points(accuracy, 1) == [(0.0, 0.5)]


def test_progress_marks_the_best_measure() -> None:
    accuracy = figures.search_progress(HISTORY).axes[0]
    assert [y for _, y in points(accuracy, 0)] == [0.5, 0.6, 0.7]
    assert points(accuracy, 1) == [(1.0, 0.6)]


def test_heat_maps_show_per_cents_and_names_as_they_are() -> None:
    shown = texts(figures.overlap_map(SQUARE, NAMES))
    assert {"100", "25", "0", "50", "<b>", "$x$"} <= shown


def test_large_heat_maps_stay_small_files() -> None:
    names = [f"class {i}" for i in range(50)]
    shares = np.random.default_rng(0).random((50, 50)).tolist()
    svg = figures.as_svg(figures.overlap_map(shares, names), "Overlap", "Of many")
    assert len(svg) < 300_000
    assert "data:image/png;base64," in svg
    assert svg == figures.as_svg(figures.overlap_map(shares, names), "Overlap", "Of many")


def test_confusions_are_shares_of_the_true_class() -> None:
    shown = texts(figures.confusions([[3, 1], [0, 0]], [[4, 0], [0, 2]], NAMES))
    assert {"75", "25", "100"} <= shown


def test_the_front_never_falls() -> None:
    place = figures.pareto_front([0.5, 0.2, 0.9], [0.8, 0.6, 0.7], chosen=0).axes[0]
    assert [x for x, _ in points(place, 1)] == [0.2, 0.5, 0.9]
    assert [y for _, y in points(place, 1)] == [0.6, 0.8, 0.8]
    assert points(place, 2) == [(0.5, 0.8)]


def test_the_picture_of_a_patch_shows_both_states_and_the_examples() -> None:
    place, *cells = ALL["picture"]().axes
    assert points(place, 1) == [(0.2, 0.0)]
    assert points(place, 2) == [(0.7, 0.0)]
    assert [cell.get_title() for cell in cells] == ["$x$ → <b>"] * 3


def test_a_file_of_its_own_has_ink_and_paper() -> None:
    svg = figures.on_paper(figures.as_svg(ALL["picture"](), "Title", "Text"))
    first = ET.fromstring(svg)[0]
    assert first.tag.endswith("style")
    assert "color: #111" in (first.text or "")
    assert "prefers-color-scheme: dark" in (first.text or "")


@pytest.mark.parametrize("spread", [0.0, 1e-4, 0.5])
def test_ticks_tell_no_differences_that_mean_nothing(spread: float) -> None:
    (axes,) = figures.pareto_front([0.5, 0.5 + spread], [0.9, 0.9 + spread]).axes
    for low, high in (axes.get_xlim(), axes.get_ylim()):
        assert high - low >= max(0.02, spread) - 1e-9
