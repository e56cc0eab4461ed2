"""The runs and splits that lie in a folder, as far as their files tell."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from cnnsplitter.errors import StorageError
from cnnsplitter.event_log import EVENTS, last_events
from cnnsplitter.folder_lock import holder_of
from cnnsplitter.results import read_json
from cnnsplitter.run_folder import RECIPE

M = TypeVar("M", bound=BaseModel)
Kind = Literal["run", "split", "sub-task"]
_LATEST = datetime.max.replace(tzinfo=UTC).timestamp() - 2 * 24 * 3600
"""Files can have times that no calendar has; two days more, for any zone of time."""


@dataclass(frozen=True)
class FoundRun:
    """A run or a split in its folder.

    Attributes:
        folder: The folder.
        kind: What it is; a sub-task that is not finished passes for a split.
        title: Of its recipe or report.
        seed: Likewise; None where nothing tells it yet.
        state: ``"finished"``, or the last stage that it told of, such as ``"search 3/20"``.
        process: Id of the process of this machine that runs it, None if none does.
        when: When it last wrote something.
        figures: Of a finished run: accuracies and, per patched class, F1 before and after.
    """

    folder: Path
    kind: Kind
    title: str
    seed: int | None
    state: str
    process: int | None
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
    subtask: list[str] = []


class _Patched(BaseModel):
    target: str
    f1_before: float
    f1_after: float


class _Figures(BaseModel):
    strong_accuracy: float | None = None
    composed_accuracy: float | None = None


def _found(folder: Path) -> FoundRun | None:
    report, stage = _read(folder / "report.json"), _last_stage(folder)
    named = _named(folder, report, stage)
    if named is None:
        return None
    process, is_finished = holder_of(folder), isinstance(report, dict)
    state = "finished" if is_finished and process is None else stage or "begun"
    figures = _figures(report) if is_finished else {}
    return FoundRun(folder, *named, state, process, _written(folder), figures)


def _named(folder: Path, report: Any, stage: str) -> tuple[Kind, str, int | None] | None:
    """Return what lies in a folder, its title and its seed; None if it is nothing of ours."""
    if (folder / RECIPE).exists():
        recipe = _as(_Recipe, _read(folder / RECIPE))
        return None if recipe is None else ("run", recipe.title, recipe.seed)
    if found := _as(_SplitReport, report):
        return "sub-task" if found.subtask else "split", found.title, found.recipe.seed
    return ("split", "Split", None) if stage else None


def _written(folder: Path) -> datetime:
    # modules/ changes when class modules are written, the folder itself with its own files
    seconds = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
    return datetime.fromtimestamp(min(max(seconds, 0), _LATEST), UTC)


def _last_stage(folder: Path) -> str:
    try:
        events = last_events(folder / EVENTS)
    except OSError:
        events = []
    return f"{events[-1].stage} {events[-1].done}/{events[-1].total}" if events else ""


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
