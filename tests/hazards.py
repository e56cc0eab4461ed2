"""What goes wrong: images whose reading kills worker processes, and memory that runs out."""

import os
import resource
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError
from cnnsplitter.inference import in_parts

HOME = os.getpid()


@dataclass(frozen=True)
class Hazard:
    """Images in memory that, in another process than the one that made them, do harm when read.

    Attributes:
        tensor: The images.
        kills: Empty files; each read in a worker removes one and kills the worker.
        starves: Empty files; each read in a worker removes one and leaves it no memory.
        raises: Raise this instead.
        home: The process that made them.
    """

    tensor: Tensor
    kills: tuple[Path, ...] = ()
    starves: tuple[Path, ...] = ()
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
            for _ in filter(_taken, self.kills):
                os.kill(os.getpid(), signal.SIGKILL)
            for file in filter(_taken, self.starves):
                starve(file.name)
        return self.tensor[rows]


def _taken(file: Path) -> bool:
    """Remove a file; return whether this process, and no other, has done so."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


class Fatal(Hazard):
    """The harm is done when they arrive."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.read(torch.arange(1))


class Interrupting(Hazard):
    """Somebody presses Ctrl-C while they are sent to a worker."""

    def __getstate__(self) -> dict[str, Any]:
        signal.raise_signal(signal.SIGINT)
        return self.__dict__


def deadly(data: ImageSet, folder: Path, deaths: int, kind: type[Hazard] = Hazard) -> ImageSet:
    """The same images, which kill so many workers that read them, or to which they are sent."""
    files = _made(folder / str(number) for number in range(deaths))
    return ImageSet(kind(_all(data), kills=files), data.rows, data.labels, data.classes)


def starving(data: ImageSet, folder: Path, kinds: Iterable[str]) -> ImageSet:
    """The same images, each kind of which leaves one worker that reads them without memory."""
    files = _made(folder / kind for kind in kinds)
    return ImageSet(Hazard(_all(data), starves=files), data.rows, data.labels, data.classes)


def starve(kind: str) -> None:
    """Let this process have no more memory than it has, and ask for more in one of four ways."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2**26
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    if kind.startswith("Python"):
        bytearray(2**28)
    elif kind.startswith("NumPy"):
        np.ones(2**28)
    elif kind.startswith("PyTorch"):
        torch.ones(2**28)
    else:  # halved as often as can be
        in_parts(lambda images: torch.ones(2**28), torch.ones(4), 4)


def _made(files: Iterable[Path]) -> tuple[Path, ...]:
    made = tuple(files)
    for file in made:
        file.touch()
    return made


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
