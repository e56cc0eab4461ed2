"""Networks of torchvision and timm by name, with weights drawn at random."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from cnnsplitter.errors import SettingsError, first_line, require_known
from cnnsplitter.extras import require_extra
from cnnsplitter.models.references import Scalar

_LARGEST = 4096
_LONGEST = 60
_MOST_ARGUMENTS = 20
_SET_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "num_classes": "the number of classes is that of the data or --classes",
        "in_chans": "the number of channels is that of the images",
        "features_only": "the network must give logits",
        "scriptable": "the network is built as a plain module",
        "exportable": "the network is built as a plain module",
        "jit": "the network is built as a plain module",
    }
)
_FETCHES = ("pretrained", "weights", "checkpoint", "cache", "progress", "hf_", "url", "file")


def build_library_model(
    name: str,
    classes: int,
    channels: int = 3,
    *,
    seed: int = 0,
    device: str = "cpu",
    arguments: Mapping[str, Scalar] = MappingProxyType({}),
) -> nn.Module:
    """Build a network of another library without pretrained weights.

    Args:
        name: ``torchvision:NAME`` or ``timm:NAME``.
        classes: Number of logits.
        channels: Of the images; torchvision's networks take 3.
        seed: Of the weights; global random state stays as it was.
        device: Where it is built; on ``"meta"`` it has shapes only.
        arguments: More arguments of the library's builder; see ``check_library_arguments``.

    Raises:
        SettingsError: The library is missing, does not have the network, or cannot build it so.
    """
    library, _, model = name.partition(":")
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(seed)
        return _BUILDERS[library](model, classes, channels, arguments)


def check_library_arguments(name: str, arguments: Mapping[str, Scalar]) -> None:
    """Refuse what could fetch a file or take all memory; a file may hold these arguments.

    Raises:
        SettingsError: Names the argument and what is wrong with it.
    """
    if len(arguments) > _MOST_ARGUMENTS:
        raise SettingsError(
            f"{len(arguments)} arguments of model {name!r}; at most {_MOST_ARGUMENTS} are taken"
        )
    for key, value in arguments.items():
        what = f"argument of model {name!r}: {key!r}"
        if key in _SET_ELSEWHERE:
            raise SettingsError(f"{what} cannot be given: {_SET_ELSEWHERE[key]}")
        if key.startswith(_FETCHES):
            raise SettingsError(f"{what} cannot be given: weights are brought by `adopt`")
        if not key.isidentifier() or not _is_small(value):
            raise SettingsError(
                f"{what} is {value!r}, but must be a number of at most {_LARGEST} or a word"
            )


def _is_small(value: Scalar) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST and value.replace("_", "").replace("-", "").isalnum()
    return value is None or (math.isfinite(value) and abs(value) <= _LARGEST)


def _torchvision(
    name: str, classes: int, channels: int, arguments: Mapping[str, Scalar]
) -> nn.Module:
    require_extra("torchvision", "torchvision")
    from torchvision import models

    require_known("torchvision model", name, models.list_models(module=models))
    if channels != 3:
        raise SettingsError(f"torchvision:{name} takes images of 3 channels, not {channels}")
    # Both warn unless told how to draw their weights, and the old way takes a minute.
    slow = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    build = models.get_model
    options: dict[str, Any] = {"weights": None, "num_classes": classes, **slow, **arguments}
    return _call(f"torchvision:{name}", lambda: build(name, **options), arguments)


def _timm(name: str, classes: int, channels: int, arguments: Mapping[str, Scalar]) -> nn.Module:
    require_extra("timm", "timm")
    import timm

    require_known("timm model", name, timm.list_models())
    options: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **arguments}
    build = timm.create_model
    return _call(f"timm:{name}", lambda: build(name, pretrained=False, **options), arguments)


def _call(name: str, build: Callable[[], nn.Module], arguments: Mapping[str, Scalar]) -> nn.Module:
    try:
        return build()
    except Exception as error:  # the libraries raise many types for arguments that do not fit
        if not arguments:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        reason = first_line(error)
        raise SettingsError(f"model {name!r} cannot be built with {given}: {reason}") from error


_BUILDERS: Mapping[str, Callable[[str, int, int, Mapping[str, Scalar]], nn.Module]] = (
    MappingProxyType({"torchvision": _torchvision, "timm": _timm})
)
