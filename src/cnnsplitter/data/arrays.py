"""Checks and conversions at the border between NumPy arrays and image tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from cnnsplitter.errors import DataError

_CHUNK = 1024


def image_shape(array: NDArray[Any], where: str) -> tuple[int, int, int]:
    """Return (C, H, W) of the images in ``array`` [N, H, W, C] or [N, H, W].

    Raises:
        DataError: If rank or type do not fit or there are no images; begins with ``where``.
    """
    if array.ndim not in (3, 4):
        raise DataError(
            f"{where}: images must be [N, H, W] or [N, H, W, C], got shape {array.shape}"
        )
    require_pixels(array.dtype, where)
    height, width = array.shape[1:3]
    channels = array.shape[3] if array.ndim == 4 else 1
    if array.size == 0:
        raise DataError(f"{where}: holds no images (shape {array.shape})")
    if channels > 4 and height in (1, 3):
        raise DataError(f"{where}: shape {array.shape} looks like [N, C, H, W]; give [N, H, W, C]")
    return channels, height, width


def require_pixels(dtype: np.dtype[Any], where: str) -> None:
    """Raise ``DataError`` unless ``dtype`` is uint8 or floating."""
    if dtype != np.uint8 and not np.issubdtype(dtype, np.floating):
        raise DataError(f"{where}: images must be uint8 or floating, got {dtype}")


def require_finite(array: NDArray[Any], where: str) -> None:
    """Raise ``DataError`` if ``array`` [N, ...] holds NaN or infinity as float32, in chunks."""
    if array.dtype == np.uint8:
        return
    for start in range(0, len(array), _CHUNK):
        with np.errstate(over="ignore"):
            some = array[start : start + _CHUNK].astype(np.float32, copy=False)
        bad = ~np.isfinite(some).reshape(-1, array[0].size).all(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            raise DataError(f"{where}: image {row} holds NaN or infinite values; remove or mend it")


def to_nchw(array: NDArray[Any]) -> Tensor:
    """Return ``array`` [N, H, W, C] or [N, H, W] as uint8 or float32 [N, C, H, W].

    Memory is shared where the types allow it.
    """
    native = array if array.dtype == np.uint8 else array.astype(np.float32, copy=False)
    # PyTorch warns about arrays it could write to but must not.
    tensor = torch.from_numpy(native if native.flags.writeable else native.copy())
    return tensor.unsqueeze(1) if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


def to_labels(values: ArrayLike | Tensor, where: str) -> Tensor:
    """Return ``values`` as int64[n].

    Raises:
        DataError: If they are not one whole number per image; the text begins with ``where``.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where}: labels must be one whole number per image") from error
    if array.ndim != 1:
        raise DataError(f"{where}: labels must be [N], got shape {array.shape}")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{where}: labels must be whole numbers, got {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))
