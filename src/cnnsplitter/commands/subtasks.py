"""``split --subtask``: one narrow network for some of a strong model's classes."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.commands.options import (
    builder,
    details,
    listeners,
    load_model,
    open_fitting_data,
    require_free,
    require_test_images,
    tracing,
)
from cnnsplitter.commands.plans import show_plan
from cnnsplitter.commands.searches import chosen_search, described
from cnnsplitter.commands.tables import show_tuning
from cnnsplitter.commands.tuning import Stages, chosen, tune
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.report import Report
    from cnnsplitter.splitting import Split
    from cnnsplitter.subtasks.networks import Subtask
    from cnnsplitter.subtasks.searching import FoundSubtask, Row

_CHECKPOINTS = ("subtask.checkpoint", "class-modules.checkpoint")


def split_subtask(context: typer.Context) -> None:
    """Search, save and compare the network of a sub-task, as the options of ``split`` say."""
    options = context.params
    file = _file(context)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.report import report_subtask

    ways = _ways(context)
    terminal = Terminal(options["json"], options["quiet"], verbose=options["verbose"])
    boards = {name: options[name] for name in ("tensorboard", "mlflow")}
    ways["progress"], _ = listeners(terminal, options["out"], **boards)
    strong = load_model(Classifier, options["strong"], builder(context))
    # What cannot be restricted to the classes is refused before the data is read.
    classes = _restricted(context, strong).classes
    with terminal:
        images = _images(context, terminal, strong, classes)
        found, modules = _searched(context, strong, images, ways)
        model, stages = _tuned(context, found, images, terminal)
    rows = found.rows(images.test, modules, model if stages else None)
    known = {"strong_weights": found.strong_weights, "search": described(context, ways["search"])}
    kept = _save(context, model, file, rows, stages, known)
    told = report_subtask(found, model, images, ways["search"], rows, kept)
    result: dict[str, Any] = {
        "file": str(file),
        "classes": list(classes),
        "search_accuracy": found.result.accuracy,
        "kept_kernels": found.result.best.kept,
        "models": rows,
        **({"tuning": stages} if stages else {}),
    }
    _finish(options["out"], result, told, terminal)


def dry_subtask(context: typer.Context, terminal: Terminal) -> None:
    """Show what ``split --subtask`` would do with the same options; its mistakes are told, too."""
    options = context.params
    file, search = _file(context), chosen_search(context)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.planning import plan_subtask

    strong = load_model(Classifier, options["strong"], builder(context))
    restricted = _restricted(context, strong)
    with terminal:
        plan = plan_subtask(
            restricted,
            _images(context, terminal, strong, restricted.classes),
            search,
            options["search_images"],
            file,
            **tracing(context),
            compare=_compares(context),
            seed=options["seed"],
        )
    show_plan(plan, terminal)


def _compares(context: typer.Context) -> bool:
    return context.params["compare"] is not False


def _file(context: typer.Context) -> Path:
    """Return the file that is written, after checking that the options go together."""
    options = context.params
    of_modules = {"curves": "--sensitivity", "pareto": "--pareto", "start": "--start"}
    for key, flag in of_modules.items():
        if options[key] is not None:
            raise SettingsError(f"{flag} is of class modules and does not go with --subtask")
    file: Path = options["out"] / "subtask.safetensors"
    # a checkpoint beside it tells of a run that was stopped before it had told all
    require_free(file, options["force"] or (options["out"] / _CHECKPOINTS[0]).exists())
    return file


def _restricted(context: typer.Context, strong: "Classifier") -> "Classifier":
    from cnnsplitter.subtasks.networks import restrict

    return restrict(strong, [name.strip() for name in context.params["subtask"].split(",")])


def _images(
    context: typer.Context, terminal: Terminal, strong: "Classifier", classes: tuple[str, ...]
) -> "Splits":
    """Open the images of the sub-task's classes."""
    images = open_fitting_data(context, terminal, {context.params["strong"]: strong})
    strong.require_classes(images.classes)
    images = images.relabel(classes)
    require_test_images(images)
    return images


def _ways(context: typer.Context) -> dict[str, Any]:
    """Return how both the sub-task and the class modules to compare it with are searched."""
    from cnnsplitter.engines import choose_engine

    options = context.params
    return {
        "search": chosen_search(context),
        "seed": options["seed"],
        "importance": options["importance"],
        "search_images": options["search_images"],
        **tracing(context),
        "engine": choose_engine(options["engine"], options["workers"], options["ray_address"]),
    }


def _searched(
    context: typer.Context, strong: "Classifier", images: "Splits", ways: dict[str, Any]
) -> "tuple[FoundSubtask, Split | None]":
    """Search the sub-task, and class modules of the same classes unless they are not wanted."""
    from cnnsplitter.splitting import split
    from cnnsplitter.subtasks.searching import subtask

    one, several = (context.params["out"] / name for name in _CHECKPOINTS)
    found = subtask(strong, images.classes, images, checkpoint=one, **ways)
    if not _compares(context):
        return found, None
    return found, split(found.strong, images, checkpoint=several, compensate=False, **ways)


def _save(
    context: typer.Context,
    model: "Subtask",
    file: Path,
    rows: "list[Row]",
    stages: Stages,
    known: dict[str, Any],
) -> dict[str, Any]:
    """Write the network, and return what its file tells of how it was made."""
    from cnnsplitter.storage.saving import save

    options = context.params
    kept = details(
        **{key: options[key] for key in ("seed", "data")},
        **known,
        strong=options["strong"].name,
        metrics={row["model"]: row["accuracy"] for row in rows},
        tuning=stages or None,
    )
    save(model, file, details=kept, overwrite=True)
    return kept


def _finish(out: Path, result: dict[str, Any], told: "Report", terminal: Terminal) -> None:
    """Write and show the result; the checkpoints have served."""
    from cnnsplitter.report.page import write_report
    from cnnsplitter.results import write_json

    write_report(out, told)
    write_json(out / "subtask.json", result)
    for name in _CHECKPOINTS:
        (out / name).unlink(missing_ok=True)
    terminal.table("Test images of the sub-task, and multiply-adds per image", result["models"])
    if "tuning" in result:
        show_tuning(result["tuning"], terminal)
    terminal.line(f"Written to {result['file']}; to look at: {out / 'report.html'}")
    terminal.result(result)


def _tuned(
    context: typer.Context, found: "FoundSubtask", images: "Splits", terminal: Terminal
) -> tuple["Subtask", Stages]:
    """Return the network that is written, and the stages of its tuning, none if not wanted."""
    wanted = chosen(context)
    if not wanted:
        return found.model, []
    models, stages = tune(
        context,
        wanted,
        {"sub-task": found.model},
        lambda models: models["sub-task"],
        found.strong,
        images,
        terminal,
    )
    return models["sub-task"], stages
