"""The command that measures what layers can do without: ``sensitivity``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.options import (
    Channels,
    Data,
    Force,
    FreezeUnknown,
    Json,
    ModelArguments,
    Out,
    Quiet,
    Rebuild,
    Root,
    SearchImages,
    Seed,
    Settings,
    Size,
    UnitsName,
    Verbose,
    builder,
    load_model,
    open_fitting_data,
    require_free,
    tracing,
)
from cnnsplitter.commands.tables import show_sensitivity
from cnnsplitter.errors import StorageError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.sensitivity import Sensitivity

Strong = Annotated[Path, typer.Argument(help="The strong model, saved by this package.")]


def sensitivity(
    context: typer.Context,
    strong: Strong,
    data: Data,
    out: Out,
    search_images: SearchImages = 200,
    units: UnitsName = "conv",
    freeze_unknown: FreezeUnknown = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Measure what it costs if a layer keeps fewer kernels."""
    require_free(out, force)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.results import write_json

    terminal = Terminal(json, quiet, verbose=verbose)
    model = load_model(Classifier, strong, builder(context))
    with terminal:
        images = open_fitting_data(context, terminal, {strong: model})
        curves = _measure(context, model, images, terminal)
    write_json(out, curves.to_json())
    show_sensitivity(curves, terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), **curves.to_json()})


def _measure(
    context: typer.Context, strong: "Classifier", images: "Splits", terminal: Terminal
) -> "Sensitivity":
    from cnnsplitter.importance import measure_importance
    from cnnsplitter.scoring import CutScorer
    from cnnsplitter.sensitivity import measure_sensitivity
    from cnnsplitter.splitting import IMPORTANCE_IMAGES, limited, trace

    seed = context.params["seed"]
    strong.require_classes(images.classes)
    channels = trace(strong, **tracing(context))
    scale = limited(images.search, context.params["search_images"], seed)
    train = limited(images.train, IMPORTANCE_IMAGES, seed)
    return measure_sensitivity(
        CutScorer(strong, channels, scale),
        measure_importance(strong, channels, train, progress=terminal.progress),
        scale.labels,
        progress=terminal.progress,
    )


def read_curves(context: typer.Context, path: Path, strong: "Classifier") -> "Sensitivity":
    """Read curves that must be those of ``strong`` and its units."""
    from cnnsplitter.results import read_json
    from cnnsplitter.sensitivity import Sensitivity
    from cnnsplitter.splitting import trace

    value = read_json(path)
    try:
        curves = Sensitivity.from_json(value)
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from error
    layers = {group.name for group in trace(strong, **tracing(context)).groups}
    for name in sorted(layers.symmetric_difference(curves.groups)):
        raise StorageError(f"{path}: belongs to another network (layer {name!r}); measure it anew")
    return curves


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sensitivity)
