"""The pictures are whole, described in words, and show the package as it is."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from docpages import DOCS, PAGES
from test_layers import LAYERS

SVG = "{http://www.w3.org/2000/svg}"
PICTURES = sorted((DOCS / "pictures").glob("*.svg"))


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_described_alone_and_shown(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    assert all((root.findtext(SVG + name) or "").strip() for name in ("title", "desc"))
    assert "http" not in path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in path.read_text()
    assert any(f"pictures/{path.name})" in page.text for page in PAGES)


def test_the_picture_of_the_layers_is_the_tested_order() -> None:
    """From the top to the bottom every part stands once, never above a higher layer's."""
    root = ElementTree.parse(DOCS / "pictures/layers.svg").getroot()
    texts = [text.text or "" for text in root.iter(SVG + "text") if text.get("class") == "small"]
    rows = [text.split(", ") for text in texts]
    level = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    assert sorted(part for row in rows for part in row) == sorted(level)
    for above, below in pairwise(rows):
        assert min(level[part] for part in above) >= max(level[part] for part in below)
