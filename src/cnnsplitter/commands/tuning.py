"""What ``split`` does to narrow networks after the search: compensate, recalibrate, fine-tune."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from cnnsplitter.commands.options import tracing
from cnnsplitter.progress import Step
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

STAGE_IMAGES = 1000
"""At most so many images of each kind tell how good the networks are between two stages."""


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
        The tuned networks, and a row of accuracies for every stage, the first without tuning, on
        some of the search and of the calibration images.
    """
    from cnnsplitter.recalibration import has_batch_norm, recalibrate

    options, modules, stages = context.params, dict(modules), Stages()

    def note(name: str) -> None:
        stages.append({"stage": name, **_accuracies(together(modules), images, options["seed"])})
        found = {"accuracy": stages[-1]["search_accuracy"]}
        terminal.progress(Step(f"after the search, {name}", len(stages), 1 + len(wanted), found))

    note("plain")
    if "compensate" in wanted:
        modules = _compensated(context, modules, strong, images)
        note("compensated")
    if "recalibrate" in wanted and has_batch_norm(strong):
        modules = {
            name: recalibrate(module, images.train, seed=options["seed"])
            for name, module in modules.items()
        }
        note("recalibrated")
    elif "recalibrate" in wanted:
        terminal.note("nothing to recalibrate: the strong model has no batch norm")
    if "fine-tune" in wanted:
        before, modules = modules, _fine_tuned(context, modules, strong, images, terminal)
        note("fine-tuned")
        if stages[-1]["search_accuracy"] < stages[-2]["search_accuracy"]:
            terminal.note("fine-tuning lowered the accuracy: what was there before it is written")
            modules = before
            stages.append({**stages[-2], "stage": f"{stages[-2]['stage']}, kept"})
    return modules, stages


def _compensated(
    context: typer.Context, modules: Mapping[str, M], strong: "Classifier", images: "Splits"
) -> dict[str, M]:
    from cnnsplitter.compensation.compensating import compensate
    from cnnsplitter.splitting import trace

    channels = trace(strong, **tracing(context))
    return compensate(modules, strong, channels, images.train, seed=context.params["seed"])


def _fine_tuned(
    context: typer.Context,
    modules: Mapping[str, M],
    strong: "Classifier",
    images: "Splits",
    terminal: Terminal,
) -> dict[str, M]:
    from cnnsplitter.finetuning import FineTuning, fine_tune
    from cnnsplitter.splitting import limited

    options = context.params
    return fine_tune(
        modules,
        strong,
        limited(images.train, options["finetune_images"] or FINETUNE_IMAGES, options["seed"]),
        FineTuning(epochs=options["finetune_epochs"], learning_rate=options["finetune_rate"]),
        seed=options["seed"],
        progress=terminal.progress,
    )


def _accuracies(model: "nn.Module", images: "Splits", seed: int) -> dict[str, float]:
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.splitting import limited

    parts = {"search": images.search, "calibration": images.calibration}
    return {
        f"{part}_accuracy": evaluate(model, limited(data, STAGE_IMAGES, seed)).accuracy
        for part, data in parts.items()
        if len(data)
    }
