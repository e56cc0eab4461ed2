"""Photographs on disk: find broken files, decode to one size."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cnnsplitter.errors import DataError
from cnnsplitter.reading import require_regular

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
)
# No format whose reader runs another program, such as PostScript, whatever a file is called.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_MOST_BYTES = 2**27
"""Of the pixels of one photograph in memory, of which there are up to three copies."""
_DEEP = 4
_MODES = {1: "L", 3: "RGB"}
_JPEG_END = b"\xff\xd9"
_TAIL = 4096


class PhotoImages:
    """Image files decoded when they are read: turned upright, resized, cropped at the centre."""

    def __init__(
        self, name: str, paths: tuple[Path, ...], size: int, channels: int, broken: tuple[Path, ...]
    ) -> None:
        """Keep the paths; ``channels`` is 3 for RGB, 1 for grey; ``size`` in pixels."""
        self.name = name
        self.paths = paths
        self.shape = (channels, size, size)
        self.broken = broken

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 [k, C, H, W].

        Raises:
            DataError: If a file that looked whole on opening cannot be decoded; names it.
        """
        images = torch.empty(len(rows), *self.shape, dtype=torch.uint8)
        for position, row in enumerate(rows.tolist()):
            images[position] = self._decode(self.paths[row])
        return images

    def _decode(self, path: Path) -> Tensor:
        channels, size, _ = self.shape
        try:
            return decode(path, size, channels)
        except Exception as error:  # see is_whole
            raise DataError(f"{path}: cannot be decoded ({error}); mend or remove it") from error


def is_whole(path: Path) -> bool:
    """Tell whether the file can be decoded; PNG and JPEG are not decoded for that."""
    try:
        with _opened(path) as image:
            if image.format == "PNG":
                _require_small(image)
                image.verify()  # compares the checksums
                return True
            if image.format == "JPEG" and _JPEG_END in _tail(path):
                image.getexif()
                return True
        decode(path, 1, 3)
    except Exception:  # Pillow has many decoders, which raise many things on damaged files
        return False
    return True


def decode(path: Path, size: int, channels: int) -> Tensor:
    """Return the photograph as uint8 [channels, size, size]: upright, centre crop.

    Raises:
        Exception: Of various types, if the file cannot be decoded.
    """
    with _opened(path) as image:
        # Lets the JPEG decoder skip detail; twice the size keeps the resampling exact enough.
        image.draft(None, (2 * size, 2 * size))
        _require_small(image)
        ImageOps.exif_transpose(image, in_place=True)
        fitted = ImageOps.fit(_to_mode(image, _MODES[channels]), (size, size))
    return torch.from_numpy(np.array(fitted)).view(size, size, channels).permute(2, 0, 1)


def _require_small(image: Image.Image) -> None:
    """Raise ``DataError`` for a photograph that would take all memory, whatever its file takes."""
    width, height = image.size
    each = len(image.getbands()) if image.mode[0] not in "IF" else _DEEP
    if width * height * each > _MOST_BYTES:
        raise DataError(f"{width} x {height} pixels are too many; make it smaller")


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip rather than scale
        deep = np.clip(np.asarray(image), 0, 65535)
        return Image.fromarray((deep // 257).astype(np.uint8)).convert(mode)
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image if image.mode == mode else image.convert(mode)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _TAIL, 0))
        return file.read()


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    require_regular(path)
    with _quiet(), Image.open(path, formats=_formats()) as image:
        yield image


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Pillow warns about odd but usable files: large ones, damaged EXIF blocks.
        warnings.simplefilter("ignore")
        yield
