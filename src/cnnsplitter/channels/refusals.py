"""Why a network cannot be traced: what its author wrote where, and what to do."""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from cnnsplitter.channels.shadow import DataNeededError
from cnnsplitter.errors import ModelError, UnsupportedModelError, first_line

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
"""Beginnings of the names of files that the network's author did not write."""
_STANDARD = sysconfig.get_path("stdlib")
_LIBRARIES = sysconfig.get_path("purelib")


def author_line() -> str:
    """Return the file and line of the author's code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_of_author(frame):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "source unknown"


def _is_of_author(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith(_OTHERS) and (
        name.startswith(_LIBRARIES) or not name.startswith(_STANDARD)
    )


def refusal(shadow: nn.Module, shape: tuple[int, ...], error: Exception) -> ModelError:
    """Return the typed error for an ``error`` of the trace of ``shadow``."""
    name, place = type(shadow).__name__, _place(shadow, error)
    if isinstance(error, DataNeededError):
        return UnsupportedModelError(
            f"{name} cannot be traced: its control flow depends on data{place}; "
            "decide by shapes only, or use torch.where"
        )
    reason = first_line(error)
    return ModelError(f"{name} cannot be traced with an input of shape {shape}{place}: {reason}")


def _place(shadow: nn.Module, error: Exception) -> str:
    """Return the innermost line of the author's code that the error passed, and its module."""
    frames = [f for f in _frames(error) if _is_of_author(f[0])]
    if not frames:
        return ""
    frame, line = frames[-1]
    paths = {id(module): path for path, module in shadow.named_modules()}
    path = paths.get(id(frame.f_locals.get("self")))
    module = f" in module {path!r}" if path else ""
    return f"{module} ({frame.f_code.co_filename}:{line})"


def _frames(error: Exception) -> Iterator[tuple[FrameType, int]]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
