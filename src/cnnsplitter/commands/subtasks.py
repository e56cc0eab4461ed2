"""``split --subtask``: one narrow network for some of a strong model's classes."""

from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.commands.options import (
    details,
    load_model,
    open_fitting_data,
    require_free,
    require_test_images,
)
from cnnsplitter.commands.searches import chosen_search, described
from cnnsplitter.commands.tables import show_tuning
from cnnsplitter.commands.tuning import Stages, is_wanted, tune
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.data import Splits
    from cnnsplitter.search import Search
    from cnnsplitter.subtask_search import FoundSubtask
    from cnnsplitter.subtasks import Subtask


def split_subtask(context: typer.Context) -> None:
    """Search, save and compare the network of a sub-task, as the options of ``split`` say."""
    options = context.params
    if options["curves"] is not None:
        raise SettingsError("--sensitivity is of class modules and does not go with --subtask")
    out = options["out"]
    file, checkpoint = out / "subtask.safetensors", out / "subtask.checkpoint"
    require_free(file, options["force"])
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.results import write_json
    from cnnsplitter.storage import save
    from cnnsplitter.subtask_search import subtask

    search = chosen_search(context)
    terminal = Terminal(options["json"], options["quiet"])
    strong = load_model(Classifier, options["strong"])
    with terminal:
        images = open_fitting_data(context, terminal, {options["strong"]: strong})
        strong.require_classes(images.classes)
        found = subtask(
            strong,
            [name.strip() for name in options["subtask"].split(",")],
            images,
            search=search,
            seed=options["seed"],
            search_images=options["search_images"],
            checkpoint=checkpoint,
            progress=terminal.progress,
        )
        images = images.relabel(found.model.classes)
        require_test_images(images)
        modules = _class_modules(context, found, images, search, terminal)
        model, stages = _tuned(context, found, images, terminal)
    rows = found.rows(images.test, modules, model if stages else None)
    kept = details(
        **{key: options[key] for key in ("seed", "data")},
        strong=options["strong"].name,
        strong_weights=found.strong_weights,
        search=described(context, search),
        metrics={row["model"]: row["accuracy"] for row in rows},
        tuning=stages or None,
    )
    save(model, file, details=kept, overwrite=True)
    result: dict[str, Any] = {
        "file": str(file),
        "classes": list(found.model.classes),
        "search_accuracy": found.result.accuracy,
        "kept_kernels": found.result.best.kept,
        "models": rows,
        **({"tuning": stages} if stages else {}),
    }
    write_json(out / "subtask.json", result)
    checkpoint.unlink(missing_ok=True)
    terminal.table("Test images of the sub-task, and multiply-adds per image", rows)
    if stages:
        show_tuning(stages, terminal)
    terminal.line(f"Written to {file}")
    terminal.result(result)


def _class_modules(
    context: typer.Context,
    found: "FoundSubtask",
    images: "Splits",
    search: "Search",
    terminal: Terminal,
) -> dict[str, "ClassModule"] | None:
    """Search as many class modules of the same classes, to compare with, unless not wanted."""
    from cnnsplitter.splitting import split

    options = context.params
    if not options["compare"]:
        return None
    return dict(
        split(
            found.strong,
            images,
            search=search,
            seed=options["seed"],
            search_images=options["search_images"],
            progress=terminal.progress,
        )
    )


def _tuned(
    context: typer.Context, found: "FoundSubtask", images: "Splits", terminal: Terminal
) -> tuple["Subtask", Stages]:
    """Return the network that is written, and the stages of its tuning, none if not wanted."""
    if not is_wanted(context):
        return found.model, []
    models, stages = tune(
        context,
        {"sub-task": found.model},
        lambda models: models["sub-task"],
        found.strong,
        images,
        terminal,
    )
    return models["sub-task"], stages
