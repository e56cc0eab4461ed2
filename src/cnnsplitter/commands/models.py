"""Commands about single models: ``train``, ``adopt``, ``evaluate`` and ``inspect``."""

from pathlib import Path
from typing import Annotated, Any

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
    open_data,
    require_free,
)
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.terminal import Terminal

KINDS = ("strong", "weak", "overfit", "underfit")
Numbers = Annotated[
    str | None, typer.Option(help="One number or one per channel, separated by commas.")
]


def train(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of a network, such as simcnn or resnet20.")],
    data: Data,
    out: Out,
    kind: Annotated[str, typer.Option(help=f"Recipe: {', '.join(KINDS)}.")] = "strong",
    width: Annotated[float, typer.Option(help="Factor on the kernels of every layer.")] = 1.0,
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
    """Train a network; run the command again to go on after a stop."""
    require_known("kind of training", kind, KINDS)
    require_free(out, force)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.inference import best_device
    from cnnsplitter.models import build_model
    from cnnsplitter.preprocessing import Preprocessing
    from cnnsplitter.recipes import parse_settings
    from cnnsplitter.storage import save
    from cnnsplitter.training import Training
    from cnnsplitter.training import train as fit

    terminal = Terminal(json, quiet)
    base = getattr(Training, kind)()
    changes = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "patience": patience,
    }
    values = base.model_dump() | {k: v for k, v in changes.items() if v is not None}
    training = parse_settings(Training, values, "training")
    with terminal:
        images = open_data(context, terminal)
        dropout = 0.0 if kind in ("overfit", "underfit") else None
        net, architecture = build_model(
            model, len(images.classes), images.input_shape, width=width, dropout=dropout, seed=seed
        )
        measured = images.train.channel_statistics(seed=seed)
        preprocessing = Preprocessing(
            _numbers("--mean", mean) or measured[0], _numbers("--std", std) or measured[1]
        )
        start = Classifier(net, images.classes, images.input_shape, preprocessing, architecture)
        checkpoint = out.with_suffix(".checkpoint")
        trained = fit(
            start.to(best_device()),
            images.train,
            images.search,
            training,
            seed=seed,
            checkpoint=checkpoint,
            progress=terminal.progress,
        )
        evaluation = evaluate(trained.classifier, images.test)
    kept = details(seed=seed, data=data, training=training.model_dump(), kind=kind)
    save(trained.classifier, out, details=kept, overwrite=force)
    checkpoint.unlink(missing_ok=True)
    show_evaluation(evaluation, terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), "test": evaluation.to_json()})


def adopt(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the network that the weights fit.")],
    weights: Annotated[Path, typer.Argument(help="Weights: .safetensors, .pt, .pth or .th.")],
    data: Data,
    out: Out,
    mean: Numbers = None,
    std: Numbers = None,
    width: Annotated[float, typer.Option(help="Factor on the kernels of every layer.")] = 1.0,
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
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.models import build_model
    from cnnsplitter.preprocessing import Preprocessing
    from cnnsplitter.storage import save
    from cnnsplitter.weights import load_weights

    terminal = Terminal(json, quiet)
    with terminal:
        images = open_data(context, terminal)
        net, architecture = build_model(
            model, len(images.classes), images.input_shape, width=width, seed=seed
        )
        preprocessing = Preprocessing(
            _numbers("--mean", mean) or (0.0,), _numbers("--std", std) or (1.0,)
        )
        classifier = Classifier(
            load_weights(net, weights),
            images.classes,
            images.input_shape,
            preprocessing,
            architecture,
        ).eval()
        classifier.check()
        evaluation = evaluate(classifier, images.test)
    save(classifier, out, details=details(weights=weights.name), overwrite=force)
    show_evaluation(evaluation, terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), "test": evaluation.to_json()})


def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model saved by this package.")],
    data: Data,
    before: Annotated[
        Path | None, typer.Option(help="A model to compare with, such as the weak one.")
    ] = None,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time, too.")] = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on the test images, alone or against another one."""
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.commands.runs import show_patch
    from cnnsplitter.cost import measure_cost
    from cnnsplitter.evaluation import compare
    from cnnsplitter.evaluation import evaluate as measure
    from cnnsplitter.storage import load

    terminal = Terminal(json, quiet)
    named = {"model": model} if before is None else {"before": before, "after": model}
    models = {name: load(path) for name, path in named.items()}
    for name, path in named.items():
        if isinstance(models[name], ClassModule):
            raise SettingsError(f"{path}: a class module scores one class; compose or patch first")
    with terminal:
        images = open_data(context, terminal)
        evaluations = {name: measure(m, images.test) for name, m in models.items()}
        comparison = None
        if before is not None:
            comparison = compare(models["before"], models["after"], images.test)
    costs = {
        name: measure_cost(m, images.input_shape, latency=latency) for name, m in models.items()
    }
    for name, evaluation in evaluations.items():
        show_evaluation(evaluation, terminal, name)
    for row in comparison.rows() if comparison else ():
        show_patch(dict(row), terminal)
    terminal.table("Cost", [{"model": name} | vars(cost) for name, cost in costs.items()])
    result: dict[str, Any] = {name: e.to_json() for name, e in evaluations.items()}
    result["cost"] = {name: vars(cost) for name, cost in costs.items()}
    if comparison:
        result["comparison"] = comparison.to_json()
    terminal.result(result)


def inspect(
    file: Annotated[Path, typer.Argument(help="A model saved by this package.")],
    json: Json = False,
) -> None:
    """Show what a file holds: classes, network, selections, calibrations, how it was made."""
    from cnnsplitter.cost import measure_cost
    from cnnsplitter.storage import describe, load

    terminal = Terminal(json)
    manifest = describe(file)
    model = load(file)
    cost = vars(measure_cost(model, model.input_shape))
    terminal.table(f"{file}: {manifest['kind']}", [cost])
    for key, value in manifest.items():
        terminal.line(f"{key}: {value}")
    terminal.result(manifest | {"cost": cost})


def show_evaluation(evaluation: Any, terminal: Terminal, name: str = "model") -> None:
    """Print accuracy and the figures of every class."""
    figures = evaluation.to_json()
    rows = [
        {"class": c, "images": evaluation.count(c), "precision": p, "recall": r, "f1": f}
        for c, p, r, f in zip(
            figures["classes"], figures["precision"], figures["recall"], figures["f1"], strict=True
        )
    ]
    terminal.table(f"Test images, {name}: accuracy {figures['accuracy']:.3f}", rows)


def _numbers(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{flag} {text!r} must be numbers separated by commas") from error


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (train, adopt, evaluate, inspect):
        app.command()(command)
