"""From the words that name a network on the command line to a classifier."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.completing import LIBRARIES, NETWORKS, one_of
from cnnsplitter.errors import SettingsError

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.models import Scalar
    from cnnsplitter.preprocessing import Preprocessing

Reference = Annotated[
    str,
    typer.Argument(
        help="Network: a name such as resnet20, torchvision:NAME, timm:NAME, or "
        "package.module:factory, which is imported and called.",
        autocompletion=one_of(*NETWORKS, *LIBRARIES),
    ),
]
ClassNames = Annotated[
    str | None,
    typer.Option("--classes", help="Names of the logits in order, with commas; or their number."),
]
InputShape = Annotated[
    str | None, typer.Option("--input-shape", help="C,H,W of one image, such as 3,224,224.")
]
Numbers = Annotated[
    str | None, typer.Option(help="Of the preprocessing: a number, or one per channel with commas.")
]
Bake = Annotated[
    bool, typer.Option("--bake", help="Bake standardised or normed weights to plain ones first.")
]
Width = Annotated[float, typer.Option("--width", help="Factor on the kernels of every layer.")]


def new_classifier(
    reference: str,
    classes: Sequence[str],
    shape: tuple[int, int, int],
    preprocessing: "Preprocessing",
    *,
    width: float = 1.0,
    dropout: float | None = None,
    arguments: "Mapping[str, Scalar] | None" = None,
    seed: int = 0,
) -> "Classifier":
    """Build a network for these classes and images; it is known to take them."""
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.models import build_model

    net, architecture = build_model(
        reference,
        len(classes),
        shape,
        width=width,
        dropout=dropout,
        arguments=arguments or {},
        seed=seed,
    )
    classifier = Classifier(net, tuple(classes), shape, preprocessing, architecture)
    classifier.check()
    return classifier


def baked(classifier: "Classifier") -> "Classifier":
    """Return a copy whose derived weights are plain ones, and which says so."""
    from dataclasses import replace

    from cnnsplitter.baking import bake
    from cnnsplitter.classifier import Classifier

    known = classifier.architecture
    return Classifier(
        bake(classifier.net),
        classifier.classes,
        classifier.input_shape,
        classifier.preprocessing,
        known and replace(known, baked=True),
    )


def new_preprocessing(
    mean: str | None,
    std: str | None,
    default_mean: tuple[float, ...] = (0.0,),
    default_std: tuple[float, ...] = (1.0,),
) -> "Preprocessing":
    """Parse ``--mean`` and ``--std``."""
    from cnnsplitter.preprocessing import Preprocessing

    return Preprocessing(
        _numbers("--mean", mean, default_mean), _numbers("--std", std, default_std)
    )


def parsed_arguments(texts: list[str] | None) -> "dict[str, Scalar]":
    """Parse ``--model-arg``."""
    from cnnsplitter.models import parse_arguments

    return parse_arguments(texts or ())


def described_input(
    images: "Splits | None", classes: str | None, input_shape: str | None
) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    """Return class names and (C, H, W) as the data or, without data, the options say.

    Raises:
        SettingsError: Nothing says them, or the options contradict the data.
    """
    shape = None if input_shape is None else parse_shape(input_shape)
    if images is None:
        if classes is None or shape is None:
            raise SettingsError("give --data, or both --classes and --input-shape")
        return parse_classes(classes), shape
    if shape not in (None, images.input_shape):
        raise SettingsError(
            f"--input-shape is {shape} but the images have {images.input_shape}; leave it out"
        )
    return images.classes, images.input_shape


def parse_classes(text: str) -> tuple[str, ...]:
    """Return the class names of ``--classes``; a number stands for 0, 1, 2 and so on.

    Raises:
        SettingsError: Fewer than two classes, an empty name or one that is named twice.
    """
    if text.isdecimal():
        names = tuple(str(number) for number in range(min(int(text), 10_001)))
    else:
        names = tuple(name.strip() for name in text.split(","))
    if not 2 <= len(names) <= 10_000 or len(set(names)) < len(names) or "" in names:
        raise SettingsError(
            f"--classes {text!r} must be 2 to 10000 different names separated by commas, "
            "or how many there are"
        )
    return names


def parse_shape(text: str) -> tuple[int, int, int]:
    """Return the (C, H, W) of ``--input-shape``."""
    parts = text.replace("x", ",").split(",")
    if len(parts) == 3 and all(part.strip().isdecimal() for part in parts):
        channels, height, width = (int(part) for part in parts)
        if 1 <= channels <= 64 and 1 <= height <= 4096 and 1 <= width <= 4096:
            return channels, height, width
    raise SettingsError(
        f"--input-shape {text!r} must be C,H,W, such as 3,224,224: up to 64 channels, 4096 pixels"
    )


def _numbers(flag: str, text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return default
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise SettingsError(f"{flag} {text!r} must be numbers separated by commas") from error
