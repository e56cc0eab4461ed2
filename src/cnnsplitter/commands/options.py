"""Options that several commands share, settings files, and checks of what is to be written."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

import typer

from cnnsplitter.commands.completing import DATA, ENGINES, UNITS, one_of
from cnnsplitter.errors import (
    SEEDS,
    DataError,
    SettingsError,
    StorageError,
    did_you_mean,
    require_known,
)
from cnnsplitter.reading import read_toml
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from torch import nn

    from cnnsplitter.data import Splits
    from cnnsplitter.events import Muted
    from cnnsplitter.progress import Progress
    from cnnsplitter.splitting import Units, Unknown
    from cnnsplitter.storage.packing import Model
    from cnnsplitter.storage.unpacking import Builder

M = TypeVar("M", bound="nn.Module")
_TABLES = {"train": ("training",), "split": ("genetic", "gradient", "importance", "random")}
"""Command to the tables that its settings file may have, for what no option sets."""
_TABLE = "cnnsplitter.table"
_NAMES_NETWORKS = ("model",)
_TRUST = {"trust-pickle", "trust-code"}
"""What lets a file run code, and so must be said by a person."""

Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="A name such as cifar10, an .npz file or a folder; [CLASS,CLASS] behind it selects.",
        autocompletion=one_of(*DATA),
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Images to evaluate on, and to calibrate on.",
        autocompletion=one_of(*DATA),
    ),
]
Out = Annotated[Path, typer.Option("--out", help="File that is written.")]
OutFolder = Annotated[Path, typer.Option("--out", help="Folder that is written to.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a finished result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Tell every step as a line of its own, with its time.")
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Show what would be done, in what time; do and write nothing."),
]
Seed = Annotated[
    int,
    typer.Option("--seed", min=0, max=SEEDS - 1, help="Seed of everything that is random."),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", min=4, help="Height and width, for image folders; a model's file says its own."
    ),
]
Channels = Annotated[
    int | None, typer.Option("--channels", help="3 for RGB, 1 for grey, for image folders.")
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder of downloaded data sets, for data by name.")
]
Latency = Annotated[
    bool, typer.Option("--latency", help="Measure the time too, per image of a batch of up to 256.")
]
Population = Annotated[
    int | None, typer.Option("--population", help="Individuals per class; parents and elites too.")
]
Generations = Annotated[int | None, typer.Option("--generations", help="Generations at most.")]
SearchImages = Annotated[
    int | None,
    typer.Option(
        "--search-images", min=2, help="Most images that score selections; gradient: 1,000."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes that run class modules: none but this one."),
]
EngineName = Annotated[
    str,
    typer.Option(
        "--engine",
        help="local: this machine; ray: a cluster of many.",
        autocompletion=one_of(*ENGINES),
    ),
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", help="Address of a running cluster, such as auto.")
]
ToTensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="Write the figures of every step for TensorBoard.")
]
ToMLflow = Annotated[
    bool,
    typer.Option("--mlflow", help="Log the figures of every step to MLFLOW_TRACKING_URI."),
]
ModelArguments = Annotated[
    list[str] | None,
    typer.Option("--model-arg", help="NAME=VALUE: argument of the network's builder; repeatable."),
]
Rebuild = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="package.module:factory that builds again the networks of saved files that are of no "
        "library; it is imported, from this folder too, and run.",
    ),
]
FreezeUnknown = Annotated[
    bool,
    typer.Option(
        "--freeze-unknown", help="Keep all channels that reach an operator that is not known."
    ),
]
UnitsName = Annotated[
    str,
    typer.Option(
        "--units",
        help="What is selected: conv, kernels; all, rows of hidden linear layers, too.",
        autocompletion=one_of(*UNITS),
    ),
]


class Tracing(TypedDict):
    """How a command's options say that a network is traced."""

    units: "Units"
    unknown: "Unknown"


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's keys as the defaults of the command's options."""
    if path is None:
        return None
    values = read_toml(path)
    known = {_key(parameter): parameter for parameter in context.command.params}
    known = {key: known[key] for key in known.keys() - {"settings", "help"} - _TRUST}
    tables = _TABLES.get(context.command.name or "", ())
    context.meta[_TABLE] = {
        name: _table(f"{path}: key {name!r}", values.pop(name)) for name in tables if name in values
    }
    for key, value in values.items():
        if key not in known:
            hint = did_you_mean(key, [*known, *tables])
            raise SettingsError(f"{path}: unknown key {key!r}; {hint}")
        if key in _NAMES_NETWORKS:
            _require_no_factory(f"{path}: key {key!r}", value)
    context.default_map = {
        known[key].name: _checked(f"{path}: key {key!r}", known[key], value)
        for key, value in values.items()
    }
    return path


def _require_no_factory(what: str, value: Any) -> None:
    from cnnsplitter.models import is_factory

    if isinstance(value, str) and is_factory(value):
        raise SettingsError(
            f"{what} names code, {value!r}, which a settings file cannot make run; "
            "give it on the command line"
        )


def _key(parameter: Any) -> str:
    """Return how a settings file names an option: as on the command line, without dashes."""
    return str(parameter.opts[0].lstrip("-"))


def _table(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SettingsError(f"{what} must be a table, not {value!r}")
    return value


def settings_table(context: typer.Context, name: str) -> dict[str, Any]:
    """Return a table of the settings file, such as ``[training]`` of ``train``; {} if none."""
    return dict(context.meta.get(_TABLE, {}).get(name, {}))


def _checked(what: str, parameter: Any, value: Any) -> Any:
    """Return a TOML value as its flag would give it: True or False, texts, or a text."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise SettingsError(f"{what} must be true or false, not {value!r}")
        return value
    if parameter.multiple or parameter.nargs == -1:
        if not isinstance(value, list):
            raise SettingsError(f"{what} must be a list, not {value!r}")
        return [_text(what, item) for item in value]
    return _text(what, value)


def _text(what: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise SettingsError(f"{what} must be a text or a number, not {value!r}")
    return str(value)


Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        callback=_read_settings,
        is_eager=True,
        help="TOML file with any of these options; a flag given here wins.",
    ),
]


def load_model(kind: type[M], path: Path, build: "Builder | None" = None) -> M:
    """Load a model that must be of ``kind``, to the device where it runs fastest."""
    from cnnsplitter.inference import best_device
    from cnnsplitter.storage.saving import load_as

    return load_as(kind, path, build=build).to(best_device())


def builder(context: typer.Context) -> "Builder | None":
    """Return what ``--model`` and ``--model-arg`` build, None without them; nothing is run yet."""
    from cnnsplitter.models import build_with_factory, is_factory, parse_arguments

    options = context.params
    reference, arguments = options["rebuild"], parse_arguments(options["model_arguments"] or ())
    if reference is None:
        if arguments:
            raise SettingsError("--model-arg is for the factory of --model; give --model, too")
        return None
    if not is_factory(reference):
        raise SettingsError(
            f"--model {reference!r} must be package.module:factory; "
            "networks by name are built again without it"
        )
    # Worker processes import the user's module, too, and its own imports may come late.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return lambda _: build_with_factory(reference, arguments)


def tracing(context: typer.Context) -> Tracing:
    """Return what ``--units`` and ``--freeze-unknown`` mean to a trace."""
    units, freeze = context.params["units"], context.params["freeze_unknown"]
    require_known("units", units, UNITS)
    return Tracing(units=units, unknown="freeze" if freeze else "error")


def open_data(context: typer.Context, terminal: Terminal, like: "Model | None" = None) -> "Splits":
    """Open the data that the command's options name; tell of broken files.

    Args:
        context: Of the command.
        terminal: Shows how it goes.
        like: A model that says how large the images of folders are, unless the options do.
    """
    from cnnsplitter.data import load_data, twin_warning

    options = context.params
    data = load_data(
        options["data"],
        size=options["size"],
        channels=options["channels"],
        folder_shape=like.input_shape if like and _fits_folders(like) else None,
        root=options["root"],
        seed=options["seed"],
        progress=terminal.progress,
    )
    if data.broken:
        names = ", ".join(str(path) for path in data.broken[:5])
        terminal.note(f"left out {len(data.broken)} broken image files: {names}")
    warning = twin_warning(data.train, data.test)
    if warning:
        terminal.note(warning)
    return data


def open_fitting_data(
    context: typer.Context, terminal: Terminal, models: Mapping[Path, "Model"]
) -> "Splits":
    """Open the data; raise ``DataError`` unless it has images of the shape that models take.

    Args:
        context: See ``open_data``.
        terminal: See ``open_data``.
        models: The models by the files that they come from.
    """
    from cnnsplitter.class_modules import require_same_shape

    data = open_data(context, terminal, next(iter(models.values())))
    shapes = {str(path): model.input_shape for path, model in models.items()}
    require_same_shape({data.train.images.name: data.input_shape, **shapes})
    return data


def _fits_folders(model: "Model") -> bool:
    """Return whether images of a folder can be brought to the shape that a model takes."""
    channels, height, width = model.input_shape
    return channels in (1, 3) and height == width


def require_test_images(data: "Splits") -> None:
    """Raise ``DataError`` before any work if there is no image to evaluate its result on."""
    if not len(data.test):
        raise DataError(f"{data.test.images.name}: no test images; add some")


def require_free(path: Path, force: bool) -> None:
    """Raise ``StorageError`` before any work if the file cannot or may not be written."""
    if path.is_dir():
        raise StorageError(f"{path}: is a folder; give --out the name of a file")
    from cnnsplitter.files import require_new

    require_new(path, force, remedy="choose another --out, or --force")
    require_folder(path.parent)


def require_folder(folder: Path) -> None:
    """Raise ``StorageError`` before any work if ``folder`` cannot be made or written to."""
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        raise StorageError(f"{nearest}: is not a folder; choose another --out")
    if not os.access(nearest, os.W_OK):
        raise StorageError(f"{nearest}: cannot be written to; choose another --out")


def given(**values: Any) -> dict[str, Any]:
    """Return the values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def details(**values: Any) -> dict[str, Any]:
    """Return what is kept with a saved model: versions, and the values that are not None."""
    from cnnsplitter.results import versions

    return {"versions": versions(), **given(**values)}


def listeners(
    terminal: Terminal, folder: Path, *, tensorboard: bool = False, mlflow: bool = False
) -> "tuple[Progress, Muted]":
    """Return what hears every step of a run, and what mutes all that it writes or sends."""
    from cnnsplitter.event_log import EVENTS, EventLog
    from cnnsplitter.events import Muted, TensorBoard, TimeLeft, together
    from cnnsplitter.tracking import MLflow

    boards: list[Progress] = [TensorBoard(folder / "tensorboard")] if tensorboard else []
    if mlflow:
        boards.append(MLflow(folder))
    files = Muted(together(EventLog(folder / EVENTS), *boards))
    return TimeLeft(together(terminal.progress, files)), files
