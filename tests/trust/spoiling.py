"""What makes a good file a bad one, whatever its kind."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MARKER = "poisoned"
Spoil = Callable[[Path], None]
"""Makes the good file at the path a bad one."""


class Poison:
    """Unpickling it makes a folder beside the bad one."""

    def __init__(self, path: Path) -> None:
        self.marker = path.with_name(MARKER)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def replaced(content: bytes) -> Spoil:
    return lambda path: write_anew(path, content)


def write_anew(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def link_to(target: str) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return spoil


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def raw_pickle(path: Path) -> None:
    write_anew(path, pickle.dumps(Poison(path)))


EVERYWHERE: dict[str, Spoil] = {
    "empty": replaced(b""),
    "device without end": link_to("/dev/zero"),
    "device with nothing": link_to("/dev/null"),
    "link to itself": lambda path: link_to(path.name)(path),
    "link to nowhere": link_to("nowhere"),
    "pipe": pipe,
    "folder": folder,
    "raw pickle": raw_pickle,
    "poisoned torch pickle": lambda path: torch.save(Poison(path), path),
}
