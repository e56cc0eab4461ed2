"""Where in a network's own code something happens: file and line, and the layer."""

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
from torch import nn

from cnnsplitter.errors import defined_at

_OTHERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
"""Beginnings of the names of files that the network's author did not write."""
_STANDARD = sysconfig.get_path("stdlib")
_LIBRARIES = sysconfig.get_path("purelib")


def author_line() -> str:
    """Return the file and line of the author's code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_of_author(frame):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame else "source unknown"


def place_of(error: BaseException, net: nn.Module) -> str:
    """Return where a run of ``net`` failed, to stand behind a message, "" if it cannot be told.

    Args:
        error: What the run raised.
        net: The network that ran.

    Returns:
        The innermost layer that was running, and the innermost line of the author's code.
    """
    frames = list(_frames(error))
    paths = {id(module): path for path, module in net.named_modules()}
    running = [paths.get(id(frame.f_locals.get("self")), "") for frame, _ in frames]
    path = next(filter(None, reversed(running)), "")
    lines = [f"{f.f_code.co_filename}:{line}" for f, line in frames if _is_of_author(f)]
    return (f" in module {path!r}" if path else "") + "".join(f" ({line})" for line in lines[-1:])


def class_of(net: nn.Module) -> str:
    """Return the name of the class of ``net``, with file and line unless PyTorch wrote it."""
    kind = type(net)
    is_own = kind.__module__.partition(".")[0] != "torch"
    return f"{kind.__name__} ({defined_at(kind)})" if is_own else kind.__name__


def _is_of_author(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return not name.startswith(_OTHERS) and (
        name.startswith(_LIBRARIES) or not name.startswith(_STANDARD)
    )


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    traceback = error.__traceback__
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
