"""Commands that look at saved models: ``evaluate`` and ``inspect``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.exports import show_export
from cnnsplitter.commands.options import (
    Channels,
    Data,
    Json,
    Latency,
    ModelArguments,
    Quiet,
    Rebuild,
    Root,
    Seed,
    Settings,
    Size,
    Verbose,
    builder,
    load_model,
    open_fitting_data,
)
from cnnsplitter.commands.tables import (
    cost_of,
    outline_lines,
    show_changes,
    show_costs,
    show_evaluation,
)
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from torch import nn

    from cnnsplitter.class_modules import ComposedModel
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.cost import Cost
    from cnnsplitter.data import ImageSet
    from cnnsplitter.evaluation import Comparison
    from cnnsplitter.patches.patching import PatchedModel
    from cnnsplitter.storage.unpacking import Builder


def evaluate(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A model saved by this package.")],
    data: Data,
    before: Annotated[
        Path | None, typer.Option("--before", help="A model to compare with, such as the weak one.")
    ] = None,
    latency: Latency = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    seed: Seed = 0,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Evaluate a model on the test images, or compare two models."""
    from cnnsplitter.evaluation import compare
    from cnnsplitter.evaluation import evaluate as measure

    terminal = Terminal(json, quiet, verbose=verbose)
    files = {"model": file} if before is None else {"before": before, "after": file}
    build = builder(context)
    models = {name: _load_whole(path, build) for name, path in files.items()}
    comparison = None
    with terminal:
        images = open_fitting_data(
            context, terminal, {files[name]: model for name, model in models.items()}
        )
        if before is None:
            evaluations = {"model": measure(models["model"], images.test)}
        else:
            first = _with_classes_of(models["after"], models["before"])
            comparison = compare(first, models["after"], images.test)
            evaluations = {"before": comparison.before, "after": comparison.after}
    costs, at_once = _costs(models, images.test, latency)
    for name, evaluation in evaluations.items():
        show_evaluation(evaluation, terminal, name)
    result: dict[str, Any] = {name: e.to_json() for name, e in evaluations.items()}
    if comparison is not None:
        show_comparison(comparison, terminal)
        result["comparison"] = comparison.to_json()
    show_costs(costs, terminal, at_once)
    terminal.result(
        result
        | {"images_at_once": at_once}
        | {"cost": {name: vars(cost) for name, cost in costs.items()}}
    )


def _costs(
    models: "Mapping[str, nn.Module]", images: "ImageSet", latency: bool
) -> "tuple[dict[str, Cost], int]":
    """Return costs, of gated patches the most and the mean, and how many images are timed at once.

    All are timed on batches of one size, because gates do nothing for a single image.
    """
    from cnnsplitter.cost import measure_cost
    from cnnsplitter.patches.cost import measure_patch_cost, timed_images
    from cnnsplitter.patches.patching import PatchedModel

    shape, at_once = images.images.shape, len(timed_images(images))
    costs: dict[str, Cost] = {}
    for name, model in models.items():
        if not isinstance(model, PatchedModel):
            costs[name] = measure_cost(model, shape, latency=latency, batch_size=at_once)
            continue
        found = measure_patch_cost(model, images, latency=latency).models
        costs[name] = found["patched"]
        if "gated" in found:
            costs[f"{name}, with its gates"] = found["gated"]
    return costs, at_once


def _load_whole(path: Path, build: "Builder | None") -> "Classifier | ComposedModel | PatchedModel":
    """Load a model that scores all its classes."""
    from torch import nn

    from cnnsplitter.class_modules import ComposedModel
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.patches.patching import PatchedModel

    model = load_model(nn.Module, path, build)
    if not isinstance(model, Classifier | ComposedModel | PatchedModel):
        raise SettingsError(f"{path}: a class module scores one class; compose or patch first")
    return model


def _with_classes_of(after: "nn.Module", before: "nn.Module") -> "nn.Module":
    """Return ``before``, with probability 0 for classes that the patches of ``after`` add."""
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.patches.patching import PatchedModel

    if not isinstance(before, Classifier) or not isinstance(after, PatchedModel):
        return before
    if not set(before.classes) < set(after.classes):
        return before
    return PatchedModel(before, (), classes=after.classes)


def show_comparison(comparison: "Comparison", terminal: Terminal) -> None:
    """Print what changed from one model to the other."""
    show_changes(comparison.rows(), terminal)
    lost, won = len(comparison.right_to_wrong), len(comparison.wrong_to_right)
    terminal.line(
        f"{won} images became right, {lost} became wrong (as one-sided by chance: "
        f"p = {comparison.chance:.2g}). Ranges in brackets hold the true change with 95 %."
    )


def inspect(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Any file or folder that this package writes.")],
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    json: Json = False,
) -> None:
    """Show what a file holds, and how it was made."""
    from cnnsplitter.commands.inspecting import inspected, is_model
    from cnnsplitter.exporting import is_export
    from cnnsplitter.storage.saving import describe, load

    terminal = Terminal(json)
    if is_export(file):
        show_export(file, terminal)
        return
    if not is_model(file):
        kind, facts = inspected(file)
        terminal.line(f"{file}: {kind}\n")
        for line in outline_lines(facts):
            terminal.line(line)
        terminal.result({"kind": kind, **facts})
        return
    model = load(file, build=builder(context))
    manifest = describe(file)
    kind, made = manifest.pop("kind"), manifest.pop("details")
    parts = [{"part": kind} | _size(model, model.input_shape)]
    parts += [
        {"part": f"class module {module.source_class}"} | _size(module, module.input_shape)
        for module in getattr(model, "class_modules", ())
    ]
    parts += _expected(model, made)
    terminal.line(f"{file}: {kind}\n")
    for line in outline_lines({**manifest, "made with": made}):
        terminal.line(line)
    terminal.table("Size", parts)
    terminal.result({"kind": kind, **manifest, "details": made, "parts": parts})


def _expected(model: "nn.Module", made: "Mapping[str, Any]") -> list[dict[str, Any]]:
    """Return the mean cost of a model with gates where it was made with a known share of runs."""
    from cnnsplitter.patches.cost import expected_cost
    from cnnsplitter.patches.patching import PatchedModel

    if not isinstance(model, PatchedModel) or not any(model.joint.gates):
        return []
    shares = made.get("run_share")
    if not isinstance(shares, dict) or shares.keys() != set(model.targets):
        return []
    if not all(isinstance(share, int | float) and 0 <= share <= 1 for share in shares.values()):
        return []
    cost = {k: v for k, v in vars(expected_cost(model, shares)).items() if v is not None}
    return [{"part": "patched, with its gates, on its test images", "units_kept": None, **cost}]


def _size(model: "nn.Module", input_shape: tuple[int, int, int]) -> dict[str, Any]:
    selection = getattr(model, "selection", None)
    cost = vars(cost_of(model, input_shape))
    units = selection and f"{int(selection.keep.sum())} of {len(selection.keep)}"
    return {"units_kept": units, **{k: v for k, v in cost.items() if v is not None}}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (evaluate, inspect):
        app.command()(command)
