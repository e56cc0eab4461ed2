"""What the files and folders are that runs leave beside their models, for ``inspect``."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cnnsplitter.errors import StorageError
from cnnsplitter.reading import no_such_file, read_toml
from cnnsplitter.results import read_json

Facts = dict[str, Any]

_LONGEST = 12
"""Entries of a list that are shown one by one; of a table four times as many."""
_DEEPEST, _LONGEST_TEXT, _MOST_FILES = 8, 300, 40
_BY_KEYS = (
    ("report of a run", {"title", "modules", "recipe"}),
    ("recipe of a run", {"title", "strong_data", "weak_data", "search", "patch"}),
    ("sensitivity curves", {"ratios", "accuracy", "start_ratios"}),
    ("result of a sub-task", {"file", "classes", "models"}),
    ("result of a split", {"composed_accuracy", "modules", "files"}),
    ("front of splits", {"points"}),
    ("results", {"machine", "versions", "rows"}),
    ("description of a model for a hub", {"library_name", "cnnsplitter_version", "kind"}),
)
"""What a JSON file is, by keys of which it has all."""
_FOLDERS = (
    ("folder of a run", "recipe.json", "report.json"),
    ("folder of a split", "split.json", "split.json"),
    ("folder of splits at several budgets", "pareto.json", "pareto.json"),
    ("folder of a sub-task", "subtask.json", "subtask.json"),
    ("folder of an unfinished split", "events.jsonl", "events.jsonl"),
    ("folder for a model hub", "config.json", "config.json"),
)
"""What a folder is, by a file that it has; and the file that tells most, where there is one."""
_TENSORS = (".safetensors", ".checkpoint")
_STATES = (
    *("genetic search checkpoint", "gradient search checkpoint", "checkpoint of tries"),
    *("training checkpoint", "importance"),
)
"""What files of tensors hold that are no model."""


def is_model(path: Path) -> bool:
    """Return whether a file is for those who read models, who also say what is wrong with it."""
    from cnnsplitter.files import read_manifest

    if path.is_dir() or path.suffix in _TEXTS:
        return False
    if path.is_file() and path.suffix not in _TENSORS and not _is_container(path):
        raise StorageError(
            f"{path}: is nothing that this package writes; inspect shows models, exports, "
            "checkpoints, importance, curves, recipes, results, events and the folders they are in"
        )
    try:
        return read_manifest(path).get("kind") not in _STATES
    except StorageError:
        return True


def inspected(path: Path) -> tuple[str, Facts]:
    """Return what a file or a folder is, and what it tells in short.

    Raises:
        StorageError: It is broken, or nothing that this package writes.
        SettingsError: It is no valid TOML.
    """
    kind, facts = _folder(path) if path.is_dir() else _TEXTS.get(path.suffix, _tensors)(path)
    try:
        json.dumps(facts, allow_nan=False)
    except ValueError as error:
        raise StorageError(f"{path}: holds NaN or infinite numbers; make it anew") from error
    return kind, facts


def _is_container(path: Path) -> bool:
    """Return whether a file of any name begins as safetensors do: a length, and then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _tensors(path: Path) -> tuple[str, Facts]:
    from cnnsplitter.files import read_manifest, read_shapes

    manifest = read_manifest(path)
    history = manifest.pop("history", [])
    facts = {**manifest, "tensors": {name: str(shape) for name, shape in read_shapes(path).items()}}
    if isinstance(history, list) and history:
        facts |= {"steps done": len(history), "last step": history[-1]}
        told = [step.get("accuracy") for step in history if isinstance(step, Mapping)]
        known = [share for share in told if isinstance(share, int | float)]
        facts |= {"best accuracy": max(known)} if known else {}
    return str(facts.pop("kind", "tensors")), _short(facts)


def _json(path: Path) -> tuple[str, Facts]:
    value = read_json(path)
    for kind, keys in _BY_KEYS:
        if isinstance(value, dict) and keys <= value.keys():
            return kind, _short(value)
    raise StorageError(f"{path}: is no JSON file that this package writes; inspect shows its own")


def _events(path: Path) -> tuple[str, Facts]:
    from cnnsplitter.event_log import last_events

    try:
        events = last_events(path)
    except FileNotFoundError as error:
        raise StorageError(no_such_file(path)) from error
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error})") from error
    if not events:
        raise StorageError(f"{path}: holds no event of a run; inspect shows files of this package")
    stages = {event.stage: f"{event.done}/{event.total}" for event in events}
    return "events of a run", {"stages": _short(stages), "last": _short(events[-1].model_dump())}


def _toml(path: Path) -> tuple[str, Facts]:
    values = read_toml(path)
    kind = "recipe" if {"strong", "weak", "patch"} <= values.keys() else "settings"
    return kind, _short(values)


def _page(path: Path) -> tuple[str, Facts]:
    beside = path.with_suffix(".json")
    if beside.is_file():
        return "page of a report; open it in a browser", _json(beside)[1]
    raise StorageError(f"{path}: a page is shown by a browser; {beside.name} is not beside it")


def _folder(path: Path) -> tuple[str, Facts]:
    from cnnsplitter.files import read_manifest

    for kind, sign, telling in _FOLDERS:
        if (path / sign).is_file():
            file = path / (telling if (path / telling).is_file() else sign)
            return kind, {"told by": file.name, **inspected(file)[1]}
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise StorageError(f"{path}: holds nothing that this package writes; name another")
    kinds = {file.name: read_manifest(file).get("kind") for file in files[:_MOST_FILES]}
    return "folder of models", {"files": len(files), **kinds}


def _short(value: Any, depth: int = 0) -> Any:
    """Return JSON values of which long lists and tables are counted instead of shown."""
    if isinstance(value, Mapping):
        if len(value) > 4 * _LONGEST or depth == _DEEPEST:
            return f"{len(value)} entries"
        return {str(key): _short(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        nested = any(isinstance(inner, list) for inner in value)
        if len(value) > _LONGEST or depth == _DEEPEST or nested:
            return f"{len(value)} entries"
        return [_short(inner, depth + 1) for inner in value]
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_LONGEST_TEXT]} ..."
    return value


_TEXTS: Mapping[str, Callable[[Path], tuple[str, Facts]]] = MappingProxyType(
    {".json": _json, ".jsonl": _events, ".toml": _toml, ".html": _page}
)
