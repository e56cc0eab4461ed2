"""What ``split`` does to narrow networks after the search: compensate, recalibrate, fine-tune."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cnnsplitter.commands.options import tracing
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from torch import nn

    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.subtasks.networks import Subtask

M = TypeVar("M", bound="ClassModule | Subtask")
Stages = list[dict[str, Any]]
FINETUNE_IMAGES = 6000
"""At most so many training images fine-tune class modules, unless an option says how many."""


def chosen(context: typer.Context, compensates: bool = False) -> list[str]:
    """Return what the options ask for; ``compensates`` is meant where they do not say."""
    options = context.params
    if options["compensate"] is not None:
        compensates = options["compensate"]
    wanted = {
        "compensate": compensates,
        "recalibrate": options["recalibrate"],
        "fine-tune": options["finetune_epochs"],
    }
    return [way for way, value in wanted.items() if value]


def tune(
    context: typer.Context,
    wanted: Sequence[str],
    modules: Mapping[str, M],
    together: Callable[[Mapping[str, M]], "nn.Module"],
    strong: "Classifier",
    images: "Splits",
    terminal: Terminal,
) -> tuple[dict[str, M], Stages]:
    """Compensate, recalibrate and fine-tune, as the options say.

    Args:
        context: Of the command.
        wanted: What ``chosen`` says.
        modules: The narrow networks.
        together: Makes one model of them.
        strong: The strong model that they were cut out of.
        images: Tuning uses the training images.
        terminal: Shows how it goes.

    Returns:
        The tuned networks, and a row of accuracies for every stage, the first without tuning; both
        on images that are not test images.
    """
    from cnnsplitter.finetuning import FineTuning, fine_tune
    from cnnsplitter.recalibration import has_batch_norm, recalibrate
    from cnnsplitter.splitting import limited

    options, modules = context.params, dict(modules)
    stages = [_stage("plain", together(modules), images)]
    if "compensate" in wanted:
        modules = _compensated(context, modules, strong, images)
        stages.append(_stage("compensated", together(modules), images))
    if "recalibrate" in wanted and has_batch_norm(strong):
        modules = {
            name: recalibrate(module, images.train, seed=options["seed"])
            for name, module in modules.items()
        }
        stages.append(_stage("recalibrated", together(modules), images))
    elif "recalibrate" in wanted:
        terminal.note("nothing to recalibrate: the strong model has no batch norm")
    if "fine-tune" in wanted:
        settings = FineTuning(epochs=options["finetune_epochs"])
        modules = fine_tune(
            modules,
            strong,
            limited(images.train, options["finetune_images"] or FINETUNE_IMAGES, options["seed"]),
            settings,
            seed=options["seed"],
            progress=terminal.progress,
        )
        stages.append(_stage("fine-tuned", together(modules), images))
    return modules, stages


def _compensated(
    context: typer.Context, modules: Mapping[str, M], strong: "Classifier", images: "Splits"
) -> dict[str, M]:
    from cnnsplitter.compensation.compensating import compensate
    from cnnsplitter.splitting import trace

    channels = trace(strong, **tracing(context))
    return compensate(modules, strong, channels, images.train, seed=context.params["seed"])


def _stage(name: str, model: "nn.Module", images: "Splits") -> dict[str, Any]:
    from cnnsplitter.evaluation import evaluate

    parts = {"search": images.search, "calibration": images.calibration}
    accuracy = {
        f"{part}_accuracy": evaluate(model, data).accuracy
        for part, data in parts.items()
        if len(data)
    }
    return {"stage": name, **accuracy}
