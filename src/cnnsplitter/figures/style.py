"""How all figures look, and figures as SVG that takes its ink from the page around it."""

import io
import re
import zlib
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

P = ParamSpec("P")
BEFORE, AFTER = "#b35900", "#0072b2"
"""Vermillion and blue tell apart under every common colour blindness (Okabe and Ito)."""
MAP = "cividis"
_INK = "#010203"
"""Stands for the page's text colour in SVG files; on paper it is as good as black."""
_STYLE: Any = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": "medium",
    "font.size": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cnnsplitter",
    "text.parse_math": False,  # a class may be called "$x$"
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_LEAST = 0.02
_LABELLED = 200
"""Heat maps of more cells show no numbers: they would not be readable."""
_DRAWN = 2000
"""Heat maps of more cells are pictures inside the SVG, a hundredth of the size of drawn cells."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Make a function draw in this package's style, whatever style its caller uses."""

    @wraps(draw)
    def in_style(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return in_style


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``rows`` times ``columns`` axes; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def percent(axes: Axes, *, x: bool = False, y: bool = False) -> None:
    """Write the ticks of shares between 0 and 1 in per cent; show two points at the least."""
    for axis in [axes.xaxis] * x + [axes.yaxis] * y:
        axis.set_major_formatter(PercentFormatter(1.0))
        low, high = axis.get_view_interval()
        missing = max(0.0, _LEAST - (high - low))
        # Ticks would tell differences that mean nothing.
        axis.set_view_interval(low - missing / 2, high + missing / 2, ignore=True)


def heat_map(
    axes: Axes,
    shares: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
) -> None:
    """Draw shares [rows][columns] between 0 and 1 as coloured cells with their per cents."""
    large = len(rows) * len(columns) > _DRAWN
    image = axes.pcolormesh(shares, cmap=MAP, vmin=0, vmax=1, edgecolors="none", rasterized=large)
    axes.invert_yaxis()
    axes.set_xticks([i + 0.5 for i in range(len(columns))], columns, rotation=90)
    axes.set_yticks([i + 0.5 for i in range(len(rows))], rows)
    axes.tick_params(length=0)
    if len(rows) * len(columns) <= _LABELLED:
        for y, row in enumerate(shares):
            for x, share in enumerate(row):
                # The colour map runs from dark to light.
                ink = "white" if share < 0.5 else "black"
                text = f"{100 * share:.0f}"
                label = axes.text(
                    x + 0.5, y + 0.5, text, ha="center", va="center", color=ink, size=7
                )
                label.set_in_layout(False)  # it stays inside its cell, and measuring it takes long
    bar = axes.figure.colorbar(image, ax=axes, format=PercentFormatter(1.0, decimals=0))
    bar.outline.set_visible(False)


def as_svg(figure: Figure, title: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element to be put into a page.

    Text stays text, in the colour of the page around it, and a screen reader reads ``title`` and
    ``description``. Equal figures give equal text.
    """
    with mpl.rc_context(_STYLE):
        buffer = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", metadata=metadata, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    label = escape(f"{title}. {description}")
    svg = _with_own_ids(svg, f"f{zlib.crc32(title.encode()):x}-")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


def on_paper(svg: str) -> str:
    """Return an SVG of ``as_svg`` as a file of its own, with paper behind its ink."""
    light, dark = "background: #fff; color: #111", "background: #16191d; color: #eee"
    rules = f"svg {{ {light} }} @media (prefers-color-scheme: dark) {{ svg {{ {dark} }} }}"
    head, end, rest = svg.partition(">")
    return f"{head}{end}<style>{rules}</style>{rest}"


def _with_own_ids(svg: str, prefix: str) -> str:
    """Keep the ids that something refers to; several figures share a page, so make them differ."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    return re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{prefix}", svg)
