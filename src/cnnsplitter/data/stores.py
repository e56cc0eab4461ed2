"""Stores: where images come from, in memory or on disk."""

import mmap
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnsplitter.data.arrays import image_shape, require_finite, to_nchw
from cnnsplitter.errors import DataError


class Images(Protocol):
    """A store of images of one shape, read by row."""

    @property
    def name(self) -> str:
        """Where the images come from, such as a file name."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 or float32 [k, C, H, W]."""
        ...


class TensorImages:
    """Images in memory."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        """Keep ``tensor`` uint8 or floating [N, C, H, W]; only float16 and float64 are copied.

        Raises:
            DataError: If rank, type or values do not fit; names the store.
        """
        if tensor.ndim != 4:
            raise DataError(f"{name}: images must be [N, C, H, W], got shape {tuple(tensor.shape)}")
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            raise DataError(f"{name}: images must be uint8 or floating, got {tensor.dtype}")
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DataError(f"{name}: images hold NaN or infinite values; remove or mend them")
        self.name = name
        self.tensor = tensor
        _, channels, height, width = tensor.shape
        self.shape: tuple[int, int, int] = (channels, height, width)

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 or float32 [k, C, H, W]."""
        return self.tensor.index_select(0, rows).contiguous()


class ArrayImages:
    """Images in a NumPy array, which may be a memory map that streams from disk."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        """Keep ``array`` uint8 or floating [N, H, W] or [N, H, W, C] without copying it.

        Raises:
            DataError: If rank, type or values do not fit; names the store.
        """
        self.name = name
        self.shape = image_shape(array, name)
        self.array = array
        require_finite(array, name)

    def __getstate__(self) -> dict[str, Any]:
        """Send another process the place of a memory map, not what is in it."""
        array, state = self.array, dict(self.__dict__)
        # a slice of a map begins elsewhere than the map itself says
        if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap):
            order = "C" if array.flags.c_contiguous else "F"
            state["array"] = (array.filename, array.dtype, "r", array.offset, array.shape, order)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        array = state["array"]
        self.__dict__ = {**state, "array": np.memmap(*array) if type(array) is tuple else array}

    def __len__(self) -> int:
        return len(self.array)

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 or float32 [k, C, H, W]."""
        # A memory map is read from disk in pages: neighbours together cost one read.
        in_order, position = np.unique(rows.numpy(), return_inverse=True)
        return to_nchw(np.asarray(self.array[in_order])[position]).contiguous()


class ConcatImages:
    """The images of several stores, one store after the other."""

    def __init__(self, parts: Sequence[Images]) -> None:
        """Join ``parts``, whose images must agree in shape and type.

        Raises:
            DataError: If they do not; names both stores.
        """
        self.parts = tuple(parts)
        self.offsets = tuple(accumulate((len(part) for part in self.parts), initial=0))
        self.name = " + ".join(part.name for part in self.parts)
        self.shape = self.parts[0].shape
        for part in self.parts[1:]:
            _require_alike(self.parts[0], part)

    def __len__(self) -> int:
        return self.offsets[-1]

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 or float32 [k, C, H, W]."""
        found = [
            ((rows >= start) & (rows < end)).nonzero().squeeze(1)
            for start, end in zip(self.offsets, self.offsets[1:], strict=False)
        ]
        images = torch.cat(
            [
                part.read(rows[positions] - start)
                for part, positions, start in zip(self.parts, found, self.offsets, strict=False)
            ]
        )
        return images[torch.cat(found).argsort()]


def _require_alike(first: Images, second: Images) -> None:
    if first.shape != second.shape:
        raise DataError(
            f"{first.name} holds images of shape {first.shape} but {second.name} of shape "
            f"{second.shape} (channels, height, width); bring them to one shape first"
        )
    none = torch.zeros(0, dtype=torch.int64)
    first_type, second_type = first.read(none).dtype, second.read(none).dtype
    if first_type != second_type:
        raise DataError(
            f"{first.name} holds {first_type} images but {second.name} {second_type}; "
            "bring them to one type first"
        )
