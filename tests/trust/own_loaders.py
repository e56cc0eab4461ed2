"""Readers of what the package writes for itself: lists of runs, settings, results, exports."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import typer

import toys
from cnnsplitter.cli import app
from cnnsplitter.commands.fronts import _finished
from cnnsplitter.commands.inspecting import inspected, is_model
from cnnsplitter.commands.models import _training
from cnnsplitter.commands.options import given, settings_table
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.exporting import describe_export
from cnnsplitter.run_list import find_runs
from cnnsplitter.search import GradientSearch
from cnnsplitter.storage.saving import load, save
from cnnsplitter.tracking import known_run
from trust.golden_others import HERE

Parts = tuple[str, Callable[[Path], object], Callable[[Path], Any]]
PATCHED = {"target": "cat", "f1_before": 0.5, "f1_after": 0.75}


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _copy(name: str) -> Callable[[Path], object]:
    return lambda path: path.write_bytes((HERE / name).read_bytes())


def _write_run(path: Path, *, file: str) -> None:
    """Write a run whose file of this name is at stake, and a file that is good beside it."""
    _json(path.with_name("recipe.json"), {"title": "t", "seed": 0, "patch": {}})
    if file == "report.json":
        _json(path, {"strong_accuracy": 0.5, "patches": [PATCHED]})
    if file == "events.jsonl":
        event = {"time": "2026", "stage": "search", "done": 3, "total": 20}
        path.write_text(f"{json.dumps(event)}\n")


def _listed(path: Path, state: str) -> Any:
    """List the runs; a file that is passed over is as good as refused."""
    runs = find_runs(path.parent)
    if [run.state for run in runs] != [state]:
        raise StorageError(f"passed over: {[run.state for run in runs]}")
    return runs


@cache
def _commands() -> Any:
    command: Any = typer.main.get_command(app)
    return command.commands


def _read_settings(path: Path) -> Any:
    """Read the settings of a command as it does, up to the work."""
    arguments = ["lenet5", "--data", "a.npz", "--out", "a", "--settings", str(path)]
    try:
        context = _commands()["train"].make_context("train", arguments)
    except typer.BadParameter.__base__ as error:  # type: ignore[misc]
        raise SettingsError(error.format_message()) from error
    values = {name: context.params[name] for name in ("epochs", "batch_size", "learning_rate")}
    table = settings_table(context, "training")
    return _training("strong", table, given(**values), "training")


SETTINGS_FILE = """epochs = 3
learning-rate = 0.01
data = "a.npz"
model-arg = ["width=0.5"]
quiet = true
[training]
momentum = 0.5
"""


def _front(path: Path) -> None:
    rows = [{"class": "cat", "kept_kernels": 0.25, "kept_macs": 0.125}]
    files = ["elsewhere/cat.safetensors"]
    _json(path, {"composed_accuracy": 0.75, "modules": rows, "files": files})
    search = _FRONT.model_dump(mode="json") | {
        "name": "gradient",
        "ranked_by": "x",
        "units": "conv",
    }
    details = {"seed": 0, "data": "d", "strong": "s", "search": search}
    module = toys.class_module(toys.classifier())
    save(module, path.with_name("cat.safetensors"), details=details, overwrite=True)


def _inspect(path: Path) -> Any:
    """Show a file as the command does; what passes for a model goes to the reader of models."""
    return load(path) if is_model(path) else inspected(path)


def _write_events(path: Path) -> None:
    _write_run(path, file="events.jsonl")


INSPECTED: dict[str, Callable[[Path], object]] = {
    **{
        name: _copy(name)
        for name in ("genetic.checkpoint", "random.checkpoint", "training.checkpoint", "split.json")
    },
    "importance.safetensors": _copy("importance.safetensors"),
    "recipe.toml": _copy("recipe.toml"),
    "events.jsonl": _write_events,
}
"""Files that ``inspect`` shows and that are no models, and what writes a good one."""
_FRONT = GradientSearch(keep=0.5)


def _read_front(path: Path) -> Any:
    """Read a point of a front that was stopped, as the command does that goes on."""
    options = {"force": False, "seed": 0, "data": "d", "strong": Path("s"), "search": "gradient"}
    context: Any = SimpleNamespace(params=options | {"importance": "x", "units": "conv"})
    found = _finished(context, path.parent, _FRONT)
    if found is None:
        raise StorageError("passed over")
    return found


OWN: dict[str, Parts] = {
    **{
        f"listed {file}": (file, partial(_write_run, file=file), partial(_listed, state=state))
        for file, state in {
            "recipe.json": "begun",
            "report.json": "finished",
            "events.jsonl": "search 3/20",
        }.items()
    },
    **{f"inspected {file}": (file, write, _inspect) for file, write in INSPECTED.items()},
    "inspected folder": ("split.json", _copy("split.json"), lambda p: inspected(p.parent)),
    "settings": ("a.toml", lambda p: p.write_text(SETTINGS_FILE), _read_settings),
    "front": ("split.json", _front, _read_front),
    "pt2": ("a.pt2", _copy("exported.pt2"), describe_export),
    "onnx": ("a.onnx", _copy("exported.onnx"), describe_export),
    "mlflow run": ("a.txt", lambda p: p.write_text(f"{'a1' * 16}\n"), known_run),
}
"""What a kind of file is called, what writes a good one, and what reads it."""
