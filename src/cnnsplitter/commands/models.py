"""Commands that make a single model: ``train`` and ``adopt``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.options import (
    Channels,
    Data,
    Force,
    Json,
    Out,
    Quiet,
    Root,
    Seed,
    Settings,
    Size,
    details,
    given,
    open_data,
    require_free,
    require_test_images,
    settings_table,
)
from cnnsplitter.commands.tables import show_evaluation
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.preprocessing import Preprocessing
    from cnnsplitter.training import Training

KINDS = ("strong", "weak", "overfit", "underfit")
Model = Annotated[str, typer.Argument(help="Name of a network, such as simcnn or resnet20.")]
Width = Annotated[float, typer.Option("--width", help="Factor on the kernels of every layer.")]
Numbers = Annotated[
    str | None, typer.Option(help="Of the preprocessing: a number, or one per channel with commas.")
]


def train(
    context: typer.Context,
    model: Model,
    data: Data,
    out: Out,
    kind: Annotated[str, typer.Option(help=f"Recipe: {', '.join(KINDS)}.")] = "strong",
    width: Width = 1.0,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the images.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=2, help="Images per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The schedule's highest.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=0, help="Stop early after so many epochs without a gain.")
    ] = None,
    mean: Numbers = None,
    std: Numbers = None,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a network; run the command again to go on after a stop.

    The settings file may have a table [training] with what has no option, such as weight_decay.
    """
    require_free(out, force)
    changes = given(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, patience=patience
    )
    training = _training(
        kind, settings_table(context, "training"), changes, f"{settings}: training"
    )
    from cnnsplitter.inference import best_device
    from cnnsplitter.training import train as fit

    terminal = Terminal(json, quiet)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with terminal:
        images = open_data(context, terminal)
        require_test_images(images)
        preprocessing = _preprocessing(mean, std, *images.train.channel_statistics(seed=seed))
        dropout = 0.0 if kind in ("overfit", "underfit") else None
        start = _network(model, images, preprocessing, width=width, dropout=dropout, seed=seed)
        trained = fit(
            start.to(best_device()),
            images.train,
            images.search,
            training,
            seed=seed,
            checkpoint=checkpoint,
            progress=terminal.progress,
        )
    kept = {"data": data, "kind": kind, "training": training.model_dump()}
    _finish(trained.classifier, images, out, terminal, force, seed=seed, **kept)
    checkpoint.unlink(missing_ok=True)


def adopt(
    context: typer.Context,
    model: Model,
    weights: Annotated[Path, typer.Argument(help="Weights: .safetensors, .pt, .pth or .th.")],
    data: Data,
    out: Out,
    mean: Numbers = None,
    std: Numbers = None,
    width: Width = 1.0,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Wrap weights trained elsewhere, with their preprocessing, in a file of this package."""
    require_free(out, force)
    from cnnsplitter.weights import load_weights

    terminal = Terminal(json, quiet)
    with terminal:
        images = open_data(context, terminal)
        require_test_images(images)
        preprocessing = _preprocessing(mean, std, (0.0,), (1.0,))
        classifier = _network(model, images, preprocessing, width=width, seed=seed)
        classifier.net = load_weights(classifier.net, weights)
    _finish(classifier.eval(), images, out, terminal, force, data=data, weights=weights.name)


def _training(kind: str, table: dict[str, Any], changes: dict[str, Any], where: str) -> "Training":
    """Return a recipe for as many epochs as wanted, with the changes of a table and of options."""
    require_known("kind of training", kind, KINDS)
    from cnnsplitter.settings import parse_settings
    from cnnsplitter.training import Training

    wanted = parse_settings(Training, table, where).model_dump(exclude_unset=True) | changes
    epochs = given(epochs=wanted.pop("epochs", None))
    base: Training = getattr(Training, kind)(**epochs)
    return parse_settings(Training, base.model_dump() | wanted, "training")


def _network(
    name: str,
    images: "Splits",
    preprocessing: "Preprocessing",
    *,
    width: float,
    seed: int,
    dropout: float | None = None,
) -> "Classifier":
    """Build a network for the classes and shape of ``images``."""
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.models import build_model

    shape = images.input_shape
    net, architecture = build_model(
        name, len(images.classes), shape, width=width, dropout=dropout, seed=seed
    )
    classifier = Classifier(net, images.classes, shape, preprocessing, architecture)
    classifier.check()
    return classifier


def _preprocessing(
    mean: str | None,
    std: str | None,
    default_mean: tuple[float, ...],
    default_std: tuple[float, ...],
) -> "Preprocessing":
    from cnnsplitter.preprocessing import Preprocessing

    return Preprocessing(
        _numbers("--mean", mean, default_mean), _numbers("--std", std, default_std)
    )


def _numbers(flag: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return default
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{flag} {text!r} must be numbers separated by commas") from error


def _finish(
    classifier: "Classifier",
    images: "Splits",
    out: Path,
    terminal: Terminal,
    force: bool,
    **made: Any,
) -> None:
    """Evaluate, save and show a new model."""
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.storage import save

    evaluation = evaluate(classifier, images.test)
    kept = details(**made, metrics={"test_accuracy": evaluation.accuracy})
    save(classifier, out, details=kept, overwrite=force)
    show_evaluation(evaluation, terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), "test": evaluation.to_json()})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (train, adopt):
        app.command()(command)
