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
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.data import Splits
    from cnnsplitter.search import Search
    from cnnsplitter.subtasks import FoundSubtask

_FOR_CLASS_MODULES = {
    "recalibrate": "--recalibrate",
    "finetune_epochs": "--finetune-epochs",
    "curves": "--sensitivity",
}


def split_subtask(context: typer.Context) -> None:
    """Search, save and compare the network of a sub-task, as the options of ``split`` say."""
    options = context.params
    for key, flag in _FOR_CLASS_MODULES.items():
        if options[key]:
            raise SettingsError(f"{flag} is for class modules and does not go with --subtask")
    out = options["out"]
    file, checkpoint = out / "subtask.safetensors", out / "subtask.checkpoint"
    require_free(file, options["force"])
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.results import write_json
    from cnnsplitter.storage import save
    from cnnsplitter.subtasks import subtask

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
    rows = found.rows(images.test, modules)
    kept = details(
        **{key: options[key] for key in ("seed", "data")},
        strong=options["strong"].name,
        strong_weights=found.strong_weights,
        search=described(context, search),
        metrics={row["model"]: row["accuracy"] for row in rows},
    )
    save(found.model, file, details=kept, overwrite=True)
    result: dict[str, Any] = {
        "file": str(file),
        "classes": list(found.model.classes),
        "search_accuracy": found.result.accuracy,
        "kept_kernels": found.result.best.kept,
        "models": rows,
    }
    write_json(out / "subtask.json", result)
    checkpoint.unlink(missing_ok=True)
    terminal.table("Test images of the sub-task, and multiply-adds per image", rows)
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
