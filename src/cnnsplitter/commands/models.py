"""Commands that make a single model: ``train`` and ``adopt``."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.completing import one_of
from cnnsplitter.commands.networks import (
    Bake,
    ClassNames,
    InputShape,
    Numbers,
    Reference,
    Width,
    baked,
    described_input,
    new_classifier,
    new_preprocessing,
    parse_classes,
    parsed_arguments,
)
from cnnsplitter.commands.options import (
    Channels,
    Data,
    Force,
    Json,
    ModelArguments,
    OptionalData,
    Out,
    Quiet,
    Root,
    Seed,
    Settings,
    Size,
    Verbose,
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
    from cnnsplitter.models import Scalar
    from cnnsplitter.training import Training
    from cnnsplitter.trusted import Told

KINDS = ("strong", "weak", "overfit", "underfit")
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Run what a pickle of weights holds, code too; shows its path and SHA-256. Only here, "
        "never in a settings file.",
    ),
]
Kind = Annotated[
    str, typer.Option(help=f"Recipe: {', '.join(KINDS)}.", autocompletion=one_of(*KINDS))
]


def train(
    context: typer.Context,
    model: Reference,
    data: Data,
    out: Out,
    kind: Kind = "strong",
    width: Width = 1.0,
    model_arguments: ModelArguments = None,
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
    verbose: Verbose = False,
) -> None:
    """Train a network. Run the command again to go on after a stop.

    The settings file may have a table [training] with what has no option, such as weight_decay.
    """
    require_free(out, force)
    changes = given(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, patience=patience
    )
    training = _training(
        kind, settings_table(context, "training"), changes, f"{settings}: training"
    )
    from cnnsplitter.folder_lock import held_file
    from cnnsplitter.inference import best_device
    from cnnsplitter.training import train as fit

    terminal = Terminal(json, quiet, verbose=verbose)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    with held_file(out):
        with terminal:
            images = open_data(context, terminal)
            require_test_images(images)
            start = _untrained(context, images, parsed_arguments(model_arguments))
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


def _untrained(
    context: typer.Context, images: "Splits", arguments: "Mapping[str, Scalar]"
) -> "Classifier":
    """Build the network that ``train`` trains."""
    options = context.params
    seed, model = options["seed"], options["model"]
    statistics = images.train.channel_statistics(seed=seed)
    # The variants drop nothing; networks that are not ours have no such setting in common.
    still = options["kind"] in ("overfit", "underfit") and ":" not in model
    return new_classifier(
        model,
        images.classes,
        images.input_shape,
        new_preprocessing(options["mean"], options["std"], *statistics),
        width=options["width"],
        dropout=0.0 if still else None,
        arguments=arguments,
        seed=seed,
    )


def adopt(
    context: typer.Context,
    model: Reference,
    out: Out,
    weights: Annotated[
        Path | None,
        typer.Argument(help="Weights: .safetensors, .pt, .pth or .th; not if a factory has them."),
    ] = None,
    data: OptionalData = None,
    classes: ClassNames = None,
    input_shape: InputShape = None,
    mean: Numbers = None,
    std: Numbers = None,
    bake: Bake = False,
    trust_pickle: TrustPickle = False,
    width: Width = 1.0,
    model_arguments: ModelArguments = None,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Wrap weights trained elsewhere in a file of this package.

    The preprocessing that they were trained with goes into it. Class names and image size come
    from --data, or from --classes and --input-shape.
    """
    require_free(out, force)
    from cnnsplitter.models import is_factory
    from cnnsplitter.weights import load_weights

    if weights is None and not is_factory(model):
        raise SettingsError(f"model {model!r} has no weights of its own; name a file of weights")
    arguments = parsed_arguments(model_arguments)
    terminal = Terminal(json, quiet, verbose=verbose)
    with terminal:
        images = _adopted_images(context, classes, terminal)
        names, shape = described_input(images, classes, input_shape)
        classifier = new_classifier(
            model,
            names,
            shape,
            new_preprocessing(mean, std),
            width=width,
            arguments=arguments,
            seed=seed,
        )
        if weights is not None:
            told = _tell(terminal) if trust_pickle else None
            classifier.net = load_weights(classifier.net, weights, trust_pickle=told)
        if bake:
            classifier = baked(classifier)
    made = given(data=data, weights=weights and weights.name)
    _finish(classifier.eval(), images, out, terminal, force, **made)


def _tell(terminal: Terminal) -> "Told":
    return lambda path, digest: terminal.note(f"runs what {path} holds, SHA-256 {digest}")


def _adopted_images(
    context: typer.Context, classes: str | None, terminal: Terminal
) -> "Splits | None":
    """Open the data if there is some, its labels in the order of ``--classes``."""
    if context.params["data"] is None:
        return None
    images = open_data(context, terminal)
    require_test_images(images)
    return images if classes is None else images.relabel(parse_classes(classes))


def _training(kind: str, table: dict[str, Any], changes: dict[str, Any], where: str) -> "Training":
    """Return a recipe for as many epochs as wanted, with the changes of a table and of options."""
    require_known("kind of training", kind, KINDS)
    from cnnsplitter.settings import parse_settings
    from cnnsplitter.training import Training

    wanted = parse_settings(Training, table, where).model_dump(exclude_unset=True) | changes
    epochs = given(epochs=wanted.pop("epochs", None))
    base: Training = getattr(Training, kind)(**epochs)
    return parse_settings(Training, base.model_dump() | wanted, "training")


def _finish(
    classifier: "Classifier",
    images: "Splits | None",
    out: Path,
    terminal: Terminal,
    force: bool,
    **made: Any,
) -> None:
    """Save a new model; evaluate and show it if there are images."""
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.storage.saving import save

    result: dict[str, Any] = {"file": str(out)}
    if images is not None:
        evaluation = evaluate(classifier, images.test)
        made["metrics"] = {"test_accuracy": evaluation.accuracy}
        result["test"] = evaluation.to_json()
        show_evaluation(evaluation, terminal)
    save(classifier, out, details=details(**made), overwrite=force)
    terminal.line(f"Written to {out}")
    terminal.result(result)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (train, adopt):
        app.command()(command)
