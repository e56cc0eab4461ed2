"""What ``split`` does to class modules after the search: recalibration and fine-tuning."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.splitting import Split

Stages = list[dict[str, Any]]


def is_wanted(context: typer.Context) -> bool:
    """Return whether the options ask for any of it."""
    return bool(context.params["recalibrate"] or context.params["finetune_epochs"])


def tune(
    context: typer.Context,
    strong: "Classifier",
    found: "Split",
    images: "Splits",
    terminal: Terminal,
) -> tuple["Split", Stages]:
    """Recalibrate and fine-tune, as the options say.

    Returns:
        The split with the tuned class modules, and a row of accuracies for every stage, the first
        without tuning; both on images that are not test images.
    """
    from cnnsplitter.finetuning import FineTuning, fine_tune
    from cnnsplitter.recalibration import has_batch_norm, recalibrate

    options, modules = context.params, dict(found)
    stages = [_stage("plain", modules, images)]
    if options["recalibrate"] and has_batch_norm(strong):
        modules = {
            name: recalibrate(module, images.train, seed=options["seed"])
            for name, module in modules.items()
        }
        stages.append(_stage("recalibrated", modules, images))
    elif options["recalibrate"]:
        terminal.note("nothing to recalibrate: the strong model has no batch norm")
    if options["finetune_epochs"]:
        modules = fine_tune(
            modules,
            strong,
            images.train,
            FineTuning(epochs=options["finetune_epochs"]),
            seed=options["seed"],
            progress=terminal.progress,
        )
        stages.append(_stage("fine-tuned", modules, images))
    return replace(found, modules=modules), stages


def _stage(name: str, modules: Mapping[str, "ClassModule"], images: "Splits") -> dict[str, Any]:
    from cnnsplitter.class_modules import compose
    from cnnsplitter.evaluation import evaluate

    composed = compose(modules)
    parts = {"search": images.search, "calibration": images.calibration}
    accuracy = {
        f"{part}_accuracy": evaluate(composed, data).accuracy
        for part, data in parts.items()
        if len(data)
    }
    return {"stage": name, **accuracy}
