"""Figures of a run, each as a function that returns a matplotlib figure."""

from cnnsplitter.figures.patches import (
    calibration_curves,
    confusions,
    patch_picture,
    score_histograms,
)
from cnnsplitter.figures.searches import (
    kept_kernels,
    layer_ratios,
    overlap_map,
    pareto_front,
    search_progress,
    sensitivity_curves,
)
from cnnsplitter.figures.style import as_svg, on_paper

__all__ = [
    "as_svg",
    "calibration_curves",
    "confusions",
    "kept_kernels",
    "layer_ratios",
    "on_paper",
    "overlap_map",
    "pareto_front",
    "patch_picture",
    "score_histograms",
    "search_progress",
    "sensitivity_curves",
]
