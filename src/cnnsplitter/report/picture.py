"""One small picture of what a run's first patch changed."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cnnsplitter import figures
from cnnsplitter.errors import StorageError
from cnnsplitter.files import replacing
from cnnsplitter.report.evidence import Evidence, Flip
from cnnsplitter.report.facts import FIGURES, Report

_EXAMPLES = 8
_MOST_PIXELS = 2**24
"""Of an example, which reports hold as it is shown: a few hundred pixels wide."""


def write_picture(path: Path, report: Report) -> None:
    """Write an SVG of the first patch, with examples of test images that became right.

    Raises:
        StorageError: The run has no patch, or the file cannot be written.
    """
    if not report.patches:
        raise StorageError(f"{report.title}: has no patch to draw")
    row, evidence = report.patches[0], report.evidence[0]
    changes = {
        name: (float(row[f"{key}_before"] or 0), float(row[f"{key}_after"] or 0))
        for key, name in FIGURES.items()
    }
    title = f"Patch of {evidence.target}, on {row['n_target']:,} and {row['n_other']:,} test images"
    figure = figures.patch_picture(changes, _examples(evidence), title)
    caption = ", ".join(f"{name} {a:.0%} to {b:.0%}" for name, (a, b) in changes.items())
    with replacing(path) as temporary:
        svg = figures.on_paper(figures.as_svg(figure, title, caption))
        temporary.write_text(svg, encoding="utf-8")


def _examples(evidence: Evidence) -> list[tuple[Any, str]]:
    return [(_pixels(flip), f"{flip.before} → {flip.after}") for flip in evidence.won[:_EXAMPLES]]


def _pixels(flip: Flip) -> Any:
    try:
        # Pillow hands some other formats to programs of the system.
        with Image.open(io.BytesIO(base64.b64decode(flip.png)), formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are too many")
            return np.asarray(image)
    except Exception as error:  # Pillow raises many types on damaged files
        raise StorageError(f"the report holds an example that is no image ({error})") from error
