"""Calls of the command line in this process, and tiny data files, for tests of the commands."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import cnnsplitter.cost
import cnnsplitter.figures
from cnnsplitter.cli import app

CLASSES = ("bird", "cat", "dog", "ship")


@dataclass(frozen=True)
class Outcome:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Shop:
    """A folder with everything that the commands make, and how each call that filled it ended."""

    folder: Path
    outcomes: dict[str, Outcome]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def leave_undrawn(patch: pytest.MonkeyPatch) -> None:
    """Have reports made without figures, and models timed for a moment only."""
    patch.setattr(cnnsplitter.figures, "as_svg", lambda *figure: "<svg></svg>")
    patch.setattr(cnnsplitter.cost, "LATENCY_SECONDS", 0.01)


def call(*arguments: object) -> Outcome:
    """Call ``cnnsplitter`` with these arguments; an exception that it lets out is raised."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return Outcome(result.exit_code, result.stdout, result.stderr)


def succeed(*arguments: object) -> Outcome:
    """Call ``cnnsplitter``; it must end well."""
    outcome = call(*arguments)
    assert outcome.code == 0, outcome
    return outcome


def write_npz(
    path: Path, classes: Sequence[str] = CLASSES, *, each: int = 60, size: int = 8, few: int = 0
) -> Path:
    """Write grey images: each class has its own bright spot under noise.

    Args:
        path: The file.
        classes: The class names.
        each: Training images per class; a third as many are test images.
        size: Height and width.
        few: If not 0, the training images of the first class.
    """
    random = np.random.default_rng(0)
    counts = [few or each] + [each] * (len(classes) - 1)
    labels = {
        "train": np.repeat(np.arange(len(classes)), counts),
        "test": np.repeat(np.arange(len(classes)), max(1, each // 3)),
    }
    arrays: dict[str, Any] = {"classes": np.array(classes)}
    for part, y in labels.items():
        x = random.integers(0, 120, (len(y), size, size)).astype(np.uint8)
        x[np.arange(len(y)), y // size, y % size] = 255
        rows, columns = 2 * (y // 2) + 1, 4 * (y % 2) + 1
        for dy in (0, 1):
            x[np.arange(len(y)), rows + dy, columns] = 255
            x[np.arange(len(y)), rows + dy, columns + 1] = 255
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    np.savez(path, **arrays)
    return path


def files_in(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder with its content, and every folder."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b""
        for p in folder.rglob("*")
    }


def split(shop: Shop, *options: object) -> tuple[object, ...]:
    """The command that splits the shop's strong model."""
    return ("split", shop / "strong.safetensors", "--data", shop / "data.npz", *options)
