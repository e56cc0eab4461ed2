"""Whole runs: ``demo`` and ``run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.options import Force, Json, Quiet, Settings, pairs
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.recipes import Recipe

Place = Annotated[
    list[str] | None,
    typer.Option("--place", help="NAME=PATH: where a data set of the recipe lies; repeatable."),
]
Width = Annotated[float | None, typer.Option(help="Factor on the kernels of both networks.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training images.")]
Population = Annotated[int | None, typer.Option(help="Individuals per class.")]
Generations = Annotated[int | None, typer.Option(help="Generations of the search.")]
SearchImages = Annotated[int | None, typer.Option(help="Most images that score selections.")]
Target = Annotated[list[str] | None, typer.Option(help="Class to patch; repeatable.")]
OptionalSeed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]


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
    place: Place = None,
    target: Target = None,
    width: Width = None,
    epochs: Epochs = None,
    population: Population = None,
    generations: Generations = None,
    search_images: SearchImages = None,
    seed: OptionalSeed = None,
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
    _run(wanted, folder, pairs("--place", place or []), force, Terminal(json, quiet))


def _run(
    recipe: "Recipe", folder: Path, places: dict[str, str], force: bool, terminal: Terminal
) -> None:
    from cnnsplitter.pipeline import Run

    with terminal:
        work = Run(recipe, folder, places, terminal.progress)
        work.check()
        work.prepare(force=force)
        report = work.report()
    show_report(report, terminal)
    written = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    terminal.line(f"\nWritten to {folder}:")
    for path in written:
        terminal.line(f"  {path}")
    terminal.result({**report, "files": written})


def show_report(report: dict[str, Any], terminal: Terminal) -> None:
    """Print a run's report as tables."""
    terminal.line(f"\n{report['title']}")
    strong, composed = report["strong_accuracy"], report["composed_accuracy"]
    terminal.line(
        f"Strong model: accuracy {strong:.3f}. Composed of class modules: {composed:.3f}."
    )
    terminal.table("Class modules (shares of the strong model)", report["modules"])
    for patch in report["patches"]:
        show_patch(patch, terminal)


def show_patch(row: dict[str, Any], terminal: Terminal) -> None:
    """Print one patch as a table of before and after."""
    figures = (
        ("precision", f"precision of {row['target']!r}"),
        ("recall", f"recall of {row['target']!r}"),
        ("f1", f"F1 of {row['target']!r}"),
        ("other", "accuracy on the other classes"),
    )
    terminal.table(
        f"Patch of {row['target']!r} on {row['n_target'] + row['n_other']} test images",
        [
            {
                "figure": title,
                "before": row[f"{key}_before"],
                "after": row[f"{key}_after"],
                "change": f"{100 * (row[f'{key}_after'] - row[f'{key}_before']):+.1f} points",
            }
            for key, title in figures
        ],
    )


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(demo)
    app.command()(run)
