"""Whole runs: ``demo`` and ``run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.options import (
    Force,
    Generations,
    Json,
    Population,
    Quiet,
    SearchImages,
    Settings,
    ToTensorBoard,
    listeners,
    require_folder,
    require_free,
)
from cnnsplitter.commands.tables import show_report
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.recipes import Recipe


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train, split and patch on scikit-learn's digits, offline, in about a minute."""
    from cnnsplitter.recipes import load_recipe

    _run(load_recipe("demo"), out, {}, force, Terminal(json, quiet))


def run(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, or a TOML file.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run: runs/RECIPE.")] = None,
    place: Annotated[
        list[str] | None,
        typer.Option(help="NAME=PATH: where a data set of the recipe lies; repeatable."),
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="Class to patch; repeatable.")] = None,
    width: Annotated[
        float | None, typer.Option(help="Factor on the kernels of both networks.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    population: Population = None,
    generations: Generations = None,
    search_images: SearchImages = None,
    tensorboard: ToTensorBoard = False,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")] = None,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe from training to the patch report; run it again to go on where it stopped."""
    from cnnsplitter.recipes import load_recipe

    wanted = load_recipe(recipe).adapted(
        width=width,
        epochs=epochs,
        population=population,
        generations=generations,
        search_images=search_images,
        targets=target or None,
        seed=seed,
    )
    folder = out or Path("runs") / Path(recipe).stem
    _run(wanted, folder, _places(wanted, place or []), force, Terminal(json, quiet), tensorboard)


def _places(recipe: "Recipe", texts: list[str]) -> dict[str, str]:
    """Parse ``--place``; only data sets of the recipe can be placed."""
    from cnnsplitter.data import parse_source

    sources = (recipe.strong_data.source, recipe.weak_data.source)
    bases = {part.base for source in sources for part in parse_source(source)}
    places: dict[str, str] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise SettingsError(f"--place {text!r} must be NAME=PATH")
        require_known("data set of the recipe", name, bases)
        places[name] = path
    return places


def _run(
    recipe: "Recipe",
    folder: Path,
    places: dict[str, str],
    force: bool,
    terminal: Terminal,
    tensorboard: bool = False,
) -> None:
    require_folder(folder)
    from cnnsplitter.folder_lock import held
    from cnnsplitter.pipeline import Run

    with terminal, held(folder):
        progress, files = listeners(terminal, folder, tensorboard)
        files.is_muted = True
        work = Run(recipe, folder, places, progress)
        work.check()
        work.prepare(force=force)
        # nothing is written to a folder before it is known to be free
        files.is_muted = False
        if (folder / "report.json").exists():
            terminal.note(f"{folder}: already finished; --force runs it again")
        report = work.report().model_dump(mode="json")
    show_report(report, terminal)
    written = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    terminal.line(f"\nWritten to {folder}:")
    for path in written:
        terminal.line(f"  {path}")
    terminal.result({**report, "files": written})


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("report.html"),
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the report of a run, or compare several, as one HTML page."""
    require_free(out, force)
    from cnnsplitter.report import read_report
    from cnnsplitter.report.page import write_page

    write_page(out, {str(folder): read_report(folder / "report.json") for folder in runs})
    terminal = Terminal(json)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out)})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(run)
    app.command()(report)
