"""A store over any map-style PyTorch ``Dataset``."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from cnnsplitter.data.arrays import require_pixels, to_labels
from cnnsplitter.errors import DataError


class DatasetImages:
    """Images of a map-style ``Dataset`` of (image, label) pairs, fetched when they are read.

    The image may be a tensor [C, H, W] or [H, W], a NumPy array [H, W, C] or [H, W], or a PIL
    image. The data set must give the same image each time: no random augmentation.
    """

    def __init__(self, dataset: Dataset[Any], name: str) -> None:
        """Look at the first image for shape and type.

        Raises:
            DataError: If there is no first image or it is none of the kinds above.
        """
        if not hasattr(dataset, "__len__"):
            raise DataError(f"{name}: the data set has no length; give a map-style Dataset")
        self.name = name
        self.dataset = dataset
        self.length = len(dataset)
        if not self.length:
            raise DataError(f"{name}: holds no images")
        first, _ = self._pair(0)
        channels, height, width = first.shape
        self.shape: tuple[int, int, int] = (channels, height, width)
        self.dtype = first.dtype

    def __len__(self) -> int:
        return self.length

    def read(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64[k] as uint8 or float32 [k, C, H, W].

        Raises:
            DataError: If an image differs in shape or type from the first one.
        """
        if not len(rows):
            return torch.zeros(0, *self.shape, dtype=self.dtype)
        return torch.stack([self._checked_pair(row)[0] for row in rows.tolist()])

    def labels(self) -> Tensor:
        """Return the labels int64[N]: ``targets`` or ``labels`` of the data set, else by one pass.

        Raises:
            DataError: If they are not one whole number per image.
        """
        # torchvision keeps raw labels there and applies target_transform only to items.
        if getattr(self.dataset, "target_transform", None) is None:
            for attribute in ("targets", "labels"):
                values = getattr(self.dataset, attribute, None)
                if values is not None:
                    return to_labels(values, f"{self.name}.{attribute}")
        return to_labels([self._checked_pair(row)[1] for row in range(self.length)], self.name)

    def _checked_pair(self, row: int) -> tuple[Tensor, Any]:
        image, label = self._pair(row)
        if tuple(image.shape) != self.shape or image.dtype != self.dtype:
            raise DataError(
                f"{self.name}: image {row} is {image.dtype} {tuple(image.shape)} but the first is "
                f"{self.dtype} {self.shape}; bring all to one shape and type"
            )
        return image, label

    def _pair(self, row: int) -> tuple[Tensor, Any]:
        item = self.dataset[row]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise DataError(f"{self.name}: item {row} is not a pair (image, label)")
        image, label = item
        return (
            _to_chw(image, f"{self.name}: image {row}"),
            label.tolist() if isinstance(label, Tensor) else label,
        )


def _to_chw(image: Any, where: str) -> Tensor:
    if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    array = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    if array.ndim not in (2, 3):
        raise DataError(f"{where} has shape {array.shape}; give [H, W] or [H, W] with channels")
    require_pixels(array.dtype, where)
    with np.errstate(over="ignore"):
        array = array if array.dtype == np.uint8 else array.astype(np.float32)
    if not np.isfinite(array).all():
        raise DataError(f"{where} holds NaN or infinite values; remove or mend it")
    # Copied because PIL images give read-only arrays.
    tensor = torch.tensor(array)
    if tensor.ndim == 2:
        return tensor[None]
    return tensor if isinstance(image, Tensor) else tensor.permute(2, 0, 1)
