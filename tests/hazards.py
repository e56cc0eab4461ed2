"""What goes wrong: images whose reading kills worker processes, and memory that runs out."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError

HOME = os.getpid()


@dataclass(frozen=True)
class Hazard:
    """Images in memory that, in another process than the one that made them, do harm when read.

    Attributes:
        tensor: The images.
        kills: Empty files; each read in a worker removes one and kills the worker.
        raises: Raise this instead.
        home: The process that made them.
    """

    tensor: Tensor
    kills: tuple[Path, ...] = ()
    raises: Exception | None = None
    home: int = HOME
    name: str = "hazard"

    @property
    def shape(self) -> tuple[int, int, int]:
        channels, height, width = self.tensor.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.tensor)

    def read(self, rows: Tensor) -> Tensor:
        if os.getpid() != self.home:
            if self.raises is not None:
                raise self.raises
            for file in self.kills:
                if file.exists():
                    file.unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
        return self.tensor[rows]


def deadly(data: ImageSet, folder: Path, deaths: int) -> ImageSet:
    """The same images, which kill so many workers that read them."""
    files = tuple(folder / str(number) for number in range(deaths))
    for file in files:
        file.touch()
    return ImageSet(Hazard(_all(data), kills=files), data.rows, data.labels, data.classes)


def raising(data: ImageSet, error: Exception) -> ImageSet:
    """The same images, which raise ``error`` in workers."""
    return ImageSet(Hazard(_all(data), raises=error), data.rows, data.labels, data.classes)


def damaged() -> Exception:
    return DataError("bird.jpg: cannot be decoded; mend or remove it")


def _all(data: ImageSet) -> Tensor:
    return data.images.read(torch.arange(len(data.images)))


def little_memory(
    monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], most: int, least: int
) -> None:
    """Let layers take so many images at once, and fewer where a gradient is wanted."""
    forward: Callable[..., Tensor] = kind.forward

    def limited(layer: nn.Module, x: Tensor) -> Tensor:
        if len(x) > (least if torch.is_grad_enabled() else most):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(layer, x)

    monkeypatch.setattr(kind, "forward", limited)
