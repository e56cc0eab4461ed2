"""The command ``compose``."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.completing import METHODS, one_of
from cnnsplitter.commands.options import (
    Channels,
    Force,
    Json,
    ModelArguments,
    OptionalData,
    Out,
    Quiet,
    Rebuild,
    Root,
    Seed,
    Settings,
    Size,
    Verbose,
    builder,
    details,
    load_model,
    open_fitting_data,
    require_free,
)
from cnnsplitter.commands.tables import show_evaluation
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule, ComposedModel
    from cnnsplitter.subtasks.networks import Subtask


Calibration = Annotated[
    str | None,
    typer.Option(
        help="Make scores comparable: learned, or one of the paper's rules.",
        autocompletion=one_of("learned", *METHODS),
    ),
]
Share = Annotated[
    Path | None,
    typer.Option(
        "--share",
        metavar="STRONG",
        help="The model that the class modules were split from: one network, cut out of it, "
        "keeps every unit that one of them keeps, and costs less than all side by side.",
    ),
]


def compose(
    context: typer.Context,
    modules: Annotated[list[Path], typer.Argument(help="Class modules; a folder means all in it.")],
    out: Out,
    data: OptionalData = None,
    calibration: Calibration = None,
    share: Share = None,
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
    """Put class modules together, as one model."""
    require_free(out, force)
    if calibration and not data:
        raise SettingsError("--calibration needs images; give --data")
    if calibration and share:
        raise SettingsError("--calibration is for class modules side by side, not for --share")
    from cnnsplitter.class_modules import compose as put_together
    from cnnsplitter.composition import fit_composition
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.storage.saving import save

    terminal = Terminal(json, quiet, verbose=verbose)
    parts, composed = _composed(context, modules)
    result: dict[str, Any] = {"file": str(out), "classes": composed.classes}
    kept = details(seed=seed, data=data, calibration=calibration)
    if data:
        with terminal:
            opened = open_fitting_data(context, terminal, {modules[0]: composed})
            images = opened.relabel(composed.classes)
            if calibration:
                fitted = fit_composition(parts, images.calibration, calibration)
                composed = put_together(parts, fitted)
            evaluation = evaluate(composed, images.test)
        result["test"] = evaluation.to_json()
        kept["metrics"] = {"test_accuracy": evaluation.accuracy}
        show_evaluation(evaluation, terminal, "composed model")
    save(composed, out, details=kept, overwrite=force)
    terminal.line(f"Written to {out}: {', '.join(composed.classes)}")
    terminal.result(result)


def _composed(
    context: typer.Context, paths: Iterable[Path]
) -> "tuple[list[ClassModule], ComposedModel | Subtask]":
    """Return the class modules and the model that they make, on the device that runs it fastest."""
    from cnnsplitter.class_modules import ClassModule, compose
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.subtasks.networks import unite

    strong, build = context.params["share"], builder(context)
    parts = [load_model(ClassModule, path, build) for path in _spread(paths)]
    if strong is None:
        return parts, compose(parts)
    return parts, unite(load_model(Classifier, strong, build), parts)


def _spread(paths: Iterable[Path]) -> list[Path]:
    """Replace folders by the class modules in them."""
    spread: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not inside:
            raise StorageError(f"{path}: holds no class module (*.safetensors)")
        spread += inside
    return spread


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(compose)
