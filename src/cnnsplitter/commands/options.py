"""Options that several commands share, and settings files."""

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.errors import SettingsError, StorageError, did_you_mean
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.data import Splits

Data = Annotated[
    str,
    typer.Option(
        "--data", help="A name such as cifar10, an .npz file or a folder; CLASSES in [] behind it."
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Where the result is written.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a finished result.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything that is random.")]
Size = Annotated[
    int | None, typer.Option("--size", min=4, help="Height and width, for image folders.")
]
Channels = Annotated[
    int | None, typer.Option("--channels", help="3 for RGB, 1 for grey, for image folders.")
]
Root = Annotated[
    Path | None, typer.Option("--root", help="Folder of downloaded data sets, for data by name.")
]


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Take a TOML file's keys as the defaults of the command's options."""
    if path is None:
        return None
    try:
        values = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read as TOML: {error}") from error
    known = {parameter.name for parameter in context.command.params if parameter.name}
    for key in values:
        if key.replace("-", "_") not in known - {"settings", "help"}:
            names = (name.replace("_", "-") for name in known - {"settings", "help"})
            raise SettingsError(f"{path}: unknown key {key!r}; {did_you_mean(key, names)}")
    context.default_map = {key.replace("-", "_"): value for key, value in values.items()}
    return path


Settings = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        callback=_read_settings,
        is_eager=True,
        help="TOML file with any of these options; a flag given here wins.",
    ),
]


def open_data(context: typer.Context, terminal: Terminal) -> "Splits":
    """Open the data that the command's options name; tell of broken files."""
    from cnnsplitter.data import load_data

    options = context.params
    data = load_data(
        options["data"],
        size=options["size"],
        channels=options["channels"],
        root=options["root"],
        seed=options["seed"],
        progress=terminal.progress,
    )
    if data.broken:
        names = ", ".join(str(path) for path in data.broken[:5])
        terminal.note(f"left out {len(data.broken)} broken image files: {names}")
    return data


def require_free(path: Path, force: bool) -> None:
    """Raise ``StorageError`` before any work if ``path`` exists and may not be overwritten."""
    if path.exists() and not force:
        raise StorageError(f"{path}: exists already; choose another --out, or --force")


def pairs(kind: str, values: list[str]) -> dict[str, str]:
    """Parse repeated ``NAME=VALUE``."""
    parsed: dict[str, str] = {}
    for value in values:
        name, equals, rest = value.partition("=")
        if not equals or not name or not rest:
            raise SettingsError(f"{kind} {value!r} must be NAME=VALUE")
        parsed[name] = rest
    return parsed


def details(**values: Any) -> dict[str, Any]:
    """Return what is kept with a saved model: versions, and the values that are not None."""
    from cnnsplitter.results import versions

    return {"versions": versions()} | {k: v for k, v in values.items() if v is not None}
