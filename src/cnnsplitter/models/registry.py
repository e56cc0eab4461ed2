"""The networks by name, and how to build one again from what a file says about it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.classifier import Architecture
from cnnsplitter.errors import SettingsError, require_known, require_seed
from cnnsplitter.models.factories import build_with_factory
from cnnsplitter.models.incecnn import InceCNN
from cnnsplitter.models.libraries import build_library_model, check_library_arguments
from cnnsplitter.models.references import (
    Scalar,
    is_factory,
    is_library_model,
    require_scalars,
)
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
    arguments: Mapping[str, Scalar] = MappingProxyType({}),
    seed: int = 0,
) -> tuple[nn.Module, Architecture]:
    """Build a network with random weights.

    ``package.module:factory`` imports and calls what the reference names: pass none that a file or
    a stranger has given.

    Args:
        name: A key of ``MODELS``, ``torchvision:NAME``, ``timm:NAME`` or
            ``package.module:factory``.
        classes: Number of logits.
        input_shape: (C, H, W) of one image.
        width: Factor on the kernels of every convolution.
        dropout: Share that is dropped where the network drops; None for the published share,
            0 for the over- and underfitting variants (method.md, The networks).
        arguments: More arguments of the network; all arguments of a factory.
        seed: Of the weights; a factory may bring its own.

    Returns:
        The network, in train mode on the CPU (a factory's as the factory left it), and its
        architecture for ``build_from``.

    Raises:
        SettingsError: An unknown name, or a value that the network cannot be built with.
        ModelError: A factory that raises or gives no network.
    """
    require_seed(seed)
    require_scalars(arguments)
    if ":" in name and (width != 1 or dropout is not None):
        raise SettingsError(
            f"model {name!r} has no width or dropout to set; leave them out, "
            "or give what it has as a model argument"
        )
    if is_factory(name):
        net = build_with_factory(name, arguments, seed=seed)
        return net, Architecture(name, dict(arguments))
    if is_library_model(name):
        known: dict[str, Any] = {"classes": classes, "channels": input_shape[0]}
    else:
        known = _own_arguments(name, classes, input_shape, width, dropout)
    _require_free(name, known if ":" in name else ("classes", "channels"), arguments)
    architecture = Architecture(name, known | dict(arguments))
    return build_from(architecture, seed=seed), architecture


def require_reference(name: str) -> None:
    """Raise ``SettingsError`` unless ``name`` can name a network; nothing is imported or built."""
    if is_factory(name) or is_library_model(name):
        return
    if ":" in name:
        raise SettingsError(
            f"model {name!r} must be a name, torchvision:NAME, timm:NAME or package.module:factory"
        )
    require_known("model", name, MODELS)


def _require_free(name: str, taken: Iterable[str], arguments: Mapping[str, Scalar]) -> None:
    for key in taken:
        if key in arguments:
            raise SettingsError(
                f"argument of model {name!r}: {key!r} cannot be given: it is that of the images"
            )


def _own_arguments(
    name: str,
    classes: int,
    input_shape: tuple[int, int, int],
    width: float,
    dropout: float | None,
) -> dict[str, Any]:
    require_reference(name)
    channels, height, wide = input_shape
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
    return arguments


def build_from(architecture: Architecture, *, seed: int = 0) -> nn.Module:
    """Build the network of an ``Architecture``, which may come from a file nobody vouches for.

    So it builds networks of this package and of the libraries, and never calls a factory.

    Raises:
        SettingsError: Unknown names (with the nearest match), wrong types or sizes out of bounds.
    """
    shadow = shadow_from(architecture)
    if shadow is None or is_library_model(architecture.name):
        known, given = _library_arguments(architecture)
        return build_library_model(architecture.name, **known, seed=seed, arguments=given)

    # what ``to_empty`` does, without the second that it takes to import symbolic shapes
    def fresh(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    net: nn.Module = shadow._apply(fresh)  # type: ignore[no-untyped-call]
    initialise(net, torch.Generator().manual_seed(seed))
    return net


def shadow_from(architecture: Architecture) -> nn.Module | None:
    """Return the network of ``build_from`` on the meta device, where it takes no memory.

    None is for a network that its library cannot build without data.

    Raises:
        SettingsError: As for ``build_from``.
    """
    name = architecture.name
    if is_library_model(name):
        known, given = _library_arguments(architecture)
        shadow = _without_data(name, known, given)
    else:
        require_known("model", name, MODELS)
        _check_arguments(architecture, inspect.signature(MODELS[name]).parameters)
        with torch.device("meta"):
            shadow = MODELS[name](**architecture.arguments)
    if shadow is not None:
        _require_size(name, shadow)
    return shadow


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


def _library_arguments(architecture: Architecture) -> tuple[dict[str, Any], dict[str, Scalar]]:
    """Return what all networks of libraries take, and what this one takes beside it."""
    given, name = dict(architecture.arguments), architecture.name
    known: dict[str, Any] = {key: given.pop(key) for key in ("classes", "channels") if key in given}
    _check_arguments(Architecture(name, known), ("classes", "channels"))
    check_library_arguments(name, given)
    return known, given


def _without_data(
    name: str, known: Mapping[str, Any], given: Mapping[str, Any]
) -> nn.Module | None:
    """Return a library's network without data; None for one that the library cannot build so.

    torchvision's regnets are such; as they come, the largest has 0.65 billion parameters.
    """
    try:
        return build_library_model(name, **known, device="meta", arguments=given)
    except NotImplementedError:
        return None
    except SettingsError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
        raise SettingsError(
            f"the size of model {name!r} with {', '.join(given)} cannot be told beforehand; "
            "leave them out, or write a factory"
        ) from error


def _require_size(name: str, net: nn.Module) -> None:
    count = sum(parameter.numel() for parameter in net.parameters())
    if count > _MOST_PARAMETERS:
        raise SettingsError(
            f"model {name!r} would have {count:,} parameters, more than "
            f"{_MOST_PARAMETERS:,}; lower its width, image size or arguments"
        )


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
