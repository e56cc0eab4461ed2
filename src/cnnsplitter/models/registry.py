"""The networks by name, and how to build one again from what a file says about it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from cnnsplitter.classifier import Architecture
from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.models.incecnn import InceCNN
from cnnsplitter.models.libraries import build_library_model, is_library_model
from cnnsplitter.models.rescnn import ResCNN
from cnnsplitter.models.resnet import ResNet
from cnnsplitter.models.simcnn import SimCNN
from cnnsplitter.models.weak import LeNet5, WeakResCNN, WeakSimCNN

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "simcnn": SimCNN,
        "rescnn": ResCNN,
        "incecnn": InceCNN,
        "resnet20": partial(ResNet, 20),
        "resnet32": partial(ResNet, 32),
        "resnet44": partial(ResNet, 44),
        "resnet56": partial(ResNet, 56),
        "weak-simcnn": partial(WeakSimCNN, 64, 4, 3),
        "weak-rescnn": partial(WeakResCNN, 64, 4),
        "weak-simcnn-5": partial(WeakSimCNN, 8, 2, 5),
        "weak-rescnn-5": partial(WeakResCNN, 8, 3),
        "lenet5": LeNet5,
    }
)
"""Builders by name; arguments: classes, channels, width and, where a network has them,
image_size and dropout."""

_LIMITS: Mapping[str, tuple[type, float, float]] = {
    "classes": (int, 1, 10_000),
    "channels": (int, 1, 64),
    "width": (float, 0.01, 4.0),
    "image_size": (int, 4, 512),
    "dropout": (float, 0.0, 0.95),
}
_MOST_PARAMETERS = 500_000_000


def build_model(
    name: str,
    classes: int,
    input_shape: tuple[int, int, int],
    *,
    width: float = 1.0,
    dropout: float | None = None,
    seed: int = 0,
) -> tuple[nn.Module, Architecture]:
    """Build a network with He-normal weights.

    Args:
        name: A key of ``MODELS``, ``torchvision:NAME`` or ``timm:NAME``.
        classes: Number of logits.
        input_shape: (C, H, W) of one image.
        width: Factor on the kernels of every convolution.
        dropout: Share that is dropped where the network drops; None for the published share,
            0 for the over- and underfitting variants (method.md, The networks).
        seed: Of the weights.

    Returns:
        The network, in train mode on the CPU, and its architecture for ``build_from``.

    Raises:
        SettingsError: An unknown name, or a value that the network cannot be built with.
    """
    channels, height, wide = input_shape
    if is_library_model(name):
        if width != 1 or dropout is not None:
            raise SettingsError(f"model {name!r} has no width or dropout to set; leave them out")
        architecture = Architecture(name, {"classes": classes, "channels": channels})
        return build_from(architecture, seed=seed), architecture
    require_known("model", name, MODELS)
    accepted = inspect.signature(MODELS[name]).parameters
    arguments: dict[str, Any] = {"classes": classes, "channels": channels, "width": float(width)}
    if "image_size" in accepted:
        if height != wide:
            raise SettingsError(
                f"model {name!r} needs square images, not {height}x{wide}; resize the images"
            )
        arguments["image_size"] = height
    if "dropout" in accepted:
        published = accepted["dropout"].default
        arguments["dropout"] = float(published if dropout is None else dropout)
    elif dropout:
        raise SettingsError(f"model {name!r} has no dropout; leave the setting out or 0")
    architecture = Architecture(name, arguments)
    return build_from(architecture, seed=seed), architecture


def build_from(architecture: Architecture, *, seed: int = 0) -> nn.Module:
    """Build the network of an ``Architecture``, which may come from a file nobody vouches for.

    Raises:
        SettingsError: Unknown names (with the nearest match), wrong types or sizes out of bounds.
    """
    if is_library_model(architecture.name):
        _check_arguments(architecture, ("classes", "channels"))
        return build_library_model(architecture.name, **architecture.arguments, seed=seed)
    require_known("model", architecture.name, MODELS)
    builder = MODELS[architecture.name]
    _check_arguments(architecture, inspect.signature(builder).parameters)
    # On the meta device nothing is allocated or drawn before the size is known to be sane.
    with torch.device("meta"):
        net = builder(**architecture.arguments)
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > _MOST_PARAMETERS:
        raise SettingsError(
            f"model {architecture.name!r} would have {count:,} parameters, more than "
            f"{_MOST_PARAMETERS:,}; lower its width or image size"
        )
    net = net.to_empty(device="cpu")
    initialise(net, torch.Generator().manual_seed(seed))
    return net


def initialise(net: nn.Module, generator: torch.Generator) -> None:
    """Set ``net``, in place, to He-normal weights, zero biases and fresh batch norms.

    Source: He et al., Delving Deep into Rectifiers, section 2.2 (fan-in).
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()


def _check_arguments(architecture: Architecture, accepted: Iterable[str]) -> None:
    accepted = tuple(accepted)
    kind = f"argument of model {architecture.name!r}:"
    for name, value in architecture.arguments.items():
        require_known(kind, name, accepted)
        expected, low, high = _LIMITS[name]
        # bool is an int, and JSON writes 1.0 as it likes.
        fits = isinstance(value, (int, float) if expected is float else int)
        if isinstance(value, bool) or not fits or not low <= value <= high:
            raise SettingsError(
                f"{kind} {name} is {value!r}, but must be {expected.__name__} "
                f"from {low:g} to {high:g}"
            )
    if "classes" not in architecture.arguments:
        raise SettingsError(f"{kind} 'classes' is missing")
