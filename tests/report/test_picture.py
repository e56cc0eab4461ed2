import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from cnnsplitter.errors import StorageError
from cnnsplitter.report import picture
from cnnsplitter.report.evidence import Flip


def flip(content: bytes) -> Flip:
    return Flip(png=base64.b64encode(content).decode(), truth="cat", before="dog", after="cat")


def written(kind: str, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, format=kind)
    return buffer.getvalue()


def test_examples_are_read() -> None:
    assert picture._pixels(flip(written("png"))).shape == (4, 4, 3)


@pytest.mark.parametrize("content", [written("eps"), written("gif"), b"", b"\x89PNG\r\n", b"no"])
def test_what_is_no_png_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An EPS would be handed to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="an example that is no image"):
        picture._pixels(flip(content))
    assert not (tmp_path / "ran").exists()


def test_too_many_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "_MOST_PIXELS", 15)
    with pytest.raises(StorageError, match="4 x 4 pixels are too many"):
        picture._pixels(flip(written("png")))
