"""The folder of a run: whose it is, and what its files are called."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cnnsplitter.errors import StorageError
from cnnsplitter.files import is_temporary
from cnnsplitter.folder_lock import LOCK
from cnnsplitter.results import read_json, write_json

RECIPE = "recipe.json"
_LONGEST_NAME = 200
"""Letters of a file name without what comes before and after; file systems take 255."""
_WRITTEN = (
    "report.json",
    "report.html",
    "results.json",
    "sensitivity.json",
    "importance.safetensors",
    "search.safetensors",
    "events.jsonl",
    "tensorboard/events.*",
    "mlflow-run.txt",
    "modules/*.safetensors",
    "composed.safetensors",
    "patched-*.safetensors",
    "strong.safetensors",
    "strong.checkpoint",
    "weak-*.safetensors",
    "weak-*.checkpoint",
)
"""What a run writes beside its recipe; the report first, which tells that it is finished."""


def claim_folder(
    folder: Path,
    recipe: dict[str, Any],
    *,
    force: bool = False,
    completed: Callable[[Any], Any] = lambda found: found,
) -> None:
    """Make the folder of a run, or make sure that it holds a run of the same recipe.

    Args:
        folder: The folder.
        recipe: The recipe as JSON values.
        force: Remove what a run has written there, whatever its recipe; other files stay.
        completed: Adds to a recipe that was found there what an older version did not write.

    Raises:
        StorageError: The folder holds a run of another recipe and ``force`` is not given, or is
            not empty and holds no run.
    """
    if not _holds_run(folder, recipe):
        if folder.is_dir() and not all(map(_is_passing, folder.iterdir())):
            raise StorageError(f"{folder}: is not empty and holds no run; choose another --out")
    elif force:
        _clear(folder)
    elif completed(read_json(folder / RECIPE)) == recipe:
        return
    else:
        raise StorageError(
            f"{folder}: holds a run with other settings; choose another --out, or --force"
        )
    write_json(folder / RECIPE, recipe)


def file_name(name: str) -> str:
    """Return a class name as a file name: safe in any folder, and different for each name."""
    # Dots are left alone by quote, but ".." must not leave the folder.
    quoted = quote(name, safe="", errors="surrogatepass").replace(".", "%2E")
    if len(quoted) <= _LONGEST_NAME:
        return quoted
    digest = blake2b(quoted.encode(), digest_size=16).hexdigest()
    return f"{quoted[: _LONGEST_NAME - len(digest) - 1]}~{digest}"


def _is_passing(path: Path) -> bool:
    """Return whether a file is there only while a run writes, or was killed while it wrote."""
    return path.name == LOCK or is_temporary(path)


def _holds_run(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether the folder has a recipe; a file of that name may be anything."""
    path = folder / RECIPE
    found = read_json(path) if path.exists() else None
    return isinstance(found, dict) and found.keys() == recipe.keys()


def _clear(folder: Path) -> None:
    """Remove what a run has written; not through a link, which leads to what is somebody else's."""
    for pattern in _WRITTEN:
        for path in folder.glob(pattern):
            if path.parent.is_symlink():
                raise StorageError(f"{path.parent}: is a link; remove it or choose another --out")
            if path.is_dir() and not path.is_symlink():
                raise StorageError(f"{path}: is a folder; remove it or choose another --out")
            path.unlink()
