"""The folder of a run: whose it is, and what its files are called."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ValidationError

from cnnsplitter.errors import StorageError
from cnnsplitter.files import is_temporary
from cnnsplitter.folder_lock import LOCK, holder_of
from cnnsplitter.reading import parse_json, read_end
from cnnsplitter.results import read_json, write_json

M = TypeVar("M", bound=BaseModel)
RECIPE, EVENTS = "recipe.json", "events.jsonl"
_SUBTASK = "subtask.json"
_LONGEST_NAME = 200
"""Letters of a file name without what comes before and after; file systems take 255."""
_LATEST = datetime.max.replace(tzinfo=UTC).timestamp() - 2 * 24 * 3600
"""Files can have times that no calendar has; two days more, for any zone of time."""
_LAST_EVENTS = 2**16
"""Bytes of the events of a run among which the last one is looked for."""
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


@dataclass(frozen=True)
class FoundRun:
    """A run or a split in its folder.

    Attributes:
        folder: The folder.
        title: Of its recipe, or what it is.
        seed: Of its recipe; None where nothing tells it yet.
        state: ``"finished"``, or the last stage that it told of, such as ``"search 3/20"``, with
            the process if it is running.
        when: When it last wrote something.
        figures: Of a finished run: accuracies and, per patched class, F1 before and after.
    """

    folder: Path
    title: str
    seed: int | None
    state: str
    when: datetime
    figures: Mapping[str, Any]


def find_runs(folder: Path) -> list[FoundRun]:
    """Return the runs and splits in a folder and in folders inside it, the latest first.

    Files that are no run's, or broken, are passed over.

    Raises:
        StorageError: The folder does not exist.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder}: no such folder; name the one that holds your runs")
    folders = {path.parent for name in (RECIPE, EVENTS) for path in folder.rglob(name)}
    found = map(_found, folders)
    return sorted((run for run in found if run), key=lambda run: run.when, reverse=True)


class _Recipe(BaseModel):
    title: str
    seed: int
    patch: dict[str, Any]


class _Seed(BaseModel):
    seed: int | None = None


class _SplitReport(BaseModel):
    title: str
    recipe: _Seed


class _Patched(BaseModel):
    target: str
    f1_before: float
    f1_after: float


class _Figures(BaseModel):
    strong_accuracy: float | None = None
    composed_accuracy: float | None = None


class _Event(BaseModel):
    stage: str
    done: int
    total: int


def _found(folder: Path) -> FoundRun | None:
    report, stage = _read(folder / "report.json"), _last_stage(folder)
    named = _named(folder, report, stage)
    if named is None:
        return None
    is_finished = isinstance(report, dict) or (folder / _SUBTASK).is_file()
    process = holder_of(folder)
    state = "finished" if is_finished else stage or "begun"
    if process is not None:
        state = f"running ({process}), {stage or 'begun'}"
    # modules/ changes when class modules are written, the folder itself with its own files
    seconds = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    when = datetime.fromtimestamp(min(max(seconds, 0), _LATEST), UTC)
    figures = _figures(report) if isinstance(report, dict) else {}
    return FoundRun(folder, *named, state, when, figures)


def _named(folder: Path, report: Any, stage: str) -> tuple[str, int | None] | None:
    """Return title and seed of what lies in a folder; None if it is nothing of ours."""
    if (folder / RECIPE).exists():
        recipe = _as(_Recipe, _read(folder / RECIPE))
        return None if recipe is None else (recipe.title, recipe.seed)
    if found := _as(_SplitReport, report):
        return found.title, found.recipe.seed
    if (folder / _SUBTASK).is_file():
        return "Sub-task", None
    return ("Split", None) if stage else None


def _last_stage(folder: Path) -> str:
    try:
        lines = read_end(folder / EVENTS, most=_LAST_EVENTS).splitlines()
    except OSError:
        lines = []
    for line in reversed(lines):
        with suppress(ValueError):  # a killed run leaves half a line
            event = _as(_Event, parse_json(line))
            if event:
                return f"{event.stage} {event.done}/{event.total}"
    return ""


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    known = _as(_Figures, report) or _Figures()
    rows = report.get("patches")
    found = [_as(_Patched, row) for row in (rows if isinstance(rows, list) else ())]
    return known.model_dump(exclude_none=True) | {
        "patches": {row.target: (row.f1_before, row.f1_after) for row in found if row}
    }


def _as(kind: type[M], value: Any) -> M | None:
    """Return a value that is whole as one of ``kind``; files may have been written by anybody."""
    try:
        return kind.model_validate(value)
    except ValidationError:
        return None


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except StorageError:
        return None


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
