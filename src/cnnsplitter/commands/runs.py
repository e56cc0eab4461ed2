"""Whole runs: ``demo`` and ``run``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.completing import recipes
from cnnsplitter.commands.options import (
    DryRun,
    Force,
    Generations,
    Json,
    Population,
    Quiet,
    SearchImages,
    Settings,
    ToMLflow,
    ToTensorBoard,
    Verbose,
    listeners,
    require_folder,
    require_free,
)
from cnnsplitter.commands.plans import show_plan
from cnnsplitter.commands.tables import show_report
from cnnsplitter.errors import SEEDS, SettingsError, StorageError, require_known
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.pipeline import Run
    from cnnsplitter.recipes import Recipe
    from cnnsplitter.run_list import FoundRun

TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Import and call the factories that the recipe names. Only here, never in a settings "
        "file.",
    ),
]


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train, split and patch on small digits, offline, in a minute."""
    from cnnsplitter.recipes import load_recipe

    work = _Work(load_recipe("demo"), out, {}, force=force, dry_run=dry_run)
    _run(work, Terminal(json, quiet, verbose=verbose))


def run(
    recipe: Annotated[
        str,
        typer.Argument(help="Name of a recipe, or a TOML file.", autocompletion=recipes),
    ],
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
    mlflow: ToMLflow = False,
    seed: Annotated[
        int | None, typer.Option(min=0, max=SEEDS - 1, help="Seed of everything random.")
    ] = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe from training to the patch report. Run it again to go on after a stop."""
    from cnnsplitter.recipes import load_recipe

    wanted = load_recipe(recipe, trust_code=trust_code).adapted(
        width=width,
        epochs=epochs,
        population=population,
        generations=generations,
        search_images=search_images,
        targets=target or None,
        seed=seed,
    )
    folder = out or Path("runs") / Path(recipe).stem
    places = _places(wanted, place or [])
    boards = {"tensorboard": tensorboard, "mlflow": mlflow}
    work = _Work(wanted, folder, places, force=force, dry_run=dry_run, **boards)
    _run(work, Terminal(json, quiet, verbose=verbose))


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


@dataclass(frozen=True)
class _Work:
    """What a command wants to be run, and how."""

    recipe: "Recipe"
    folder: Path
    places: dict[str, str]
    force: bool = False
    dry_run: bool = False
    tensorboard: bool = False
    mlflow: bool = False


def _run(work: _Work, terminal: Terminal) -> None:
    folder = work.folder
    require_folder(folder)
    from cnnsplitter.folder_lock import held
    from cnnsplitter.pipeline import Run

    with terminal:
        progress, written = listeners(
            terminal, folder, tensorboard=work.tensorboard, mlflow=work.mlflow
        )
        written.is_muted = True
        run = Run(work.recipe, folder, work.places, progress)
        run.check()
        for remark in run.data.remarks():
            terminal.note(remark)
    if work.dry_run:
        _plan(run, terminal)
        return
    with terminal, held(folder):
        run.prepare(force=work.force)
        # nothing is written to a folder before it is known to be free
        written.is_muted = False
        if (folder / "report.json").exists():
            terminal.note(f"{folder}: already finished; --force runs it again")
        report = run.report().model_dump(mode="json")
    show_report(report, terminal)
    paths = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    terminal.line(f"\nWritten to {folder}:")
    for path in paths:
        terminal.line(f"  {path}")
    terminal.result({**report, "files": paths})


def _plan(run: "Run", terminal: Terminal) -> None:
    from cnnsplitter.planning import plan_run

    show_plan(plan_run(run), terminal)


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs, splits and fronts.")
    ],
    out: Annotated[Path, typer.Option(help="The page that is written.")] = Path("report.html"),
    picture: Annotated[
        Path | None, typer.Option(help="SVG file for one picture of the first run's patch.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the report of runs as one HTML page. Several are compared."""
    wanted = [path for path in (out, picture) if path is not None]
    for path in wanted:
        require_free(path, force)
    from jinja2 import TemplateError

    from cnnsplitter.report import find_reports
    from cnnsplitter.report.page import write_page
    from cnnsplitter.report.picture import write_picture

    reports = {name: told for folder in runs for name, told in find_reports(folder).items()}
    try:
        write_page(out, reports)
        if picture is not None:
            write_picture(picture, next(iter(reports.values())))
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        names = ", ".join(reports)
        raise StorageError(f"{names}: a report holds what cannot be shown ({error})") from error
    terminal = Terminal(json)
    terminal.line(f"Written to {' and '.join(map(str, wanted))}")
    terminal.result({"file": str(out), "picture": picture and str(picture)})


def runs(
    folder: Annotated[Path, typer.Argument(help="Folder that holds runs.")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs and splits in a folder, the latest first."""
    from cnnsplitter.run_list import find_runs

    found, terminal = find_runs(folder), Terminal(json)
    terminal.table(f"Runs in {folder}", [_row(run) for run in found])
    if not found:
        terminal.line(f"{folder}: holds no run")
    rows = [vars(one) | {"folder": str(one.folder), "when": one.when.isoformat()} for one in found]
    terminal.result({"runs": rows})


def _row(run: "FoundRun") -> dict[str, Any]:
    patches = run.figures.get("patches", {})
    return {
        "folder": str(run.folder),
        "what": run.title,
        "seed": run.seed,
        "state": run.state if run.process is None else f"running ({run.process}), {run.state}",
        "strong": run.figures.get("strong_accuracy"),
        "composed": run.figures.get("composed_accuracy"),
        "F1 of the patched class": ", ".join(
            f"{name} {before:.3f} → {after:.3f}" for name, (before, after) in patches.items()
        ),
        "when": f"{run.when.astimezone():%Y-%m-%d %H:%M}",
    }


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(run)
    app.command()(report)
    app.command()(runs)
