"""Networks of torchvision and timm by name, with weights drawn at random."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from cnnsplitter.errors import SettingsError, require_known


def is_library_model(name: str) -> bool:
    """Tell whether ``name`` has the form ``torchvision:NAME`` or ``timm:NAME``."""
    return name.partition(":")[0] in _BUILDERS


def build_library_model(name: str, classes: int, channels: int = 3, *, seed: int = 0) -> nn.Module:
    """Build a network of another library without pretrained weights.

    Args:
        name: ``torchvision:NAME`` or ``timm:NAME``.
        classes: Number of logits.
        channels: Of the images; torchvision's networks take 3.
        seed: Of the weights; global random state stays as it was.

    Raises:
        SettingsError: The library is missing, or does not have the network.
    """
    library, _, model = name.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[library](model, classes, channels)


def _torchvision(name: str, classes: int, channels: int) -> nn.Module:
    try:
        from torchvision import models
    except (ImportError, RuntimeError, OSError) as error:
        raise SettingsError(_missing("torchvision", error)) from error
    require_known("torchvision model", name, models.list_models(module=models))
    if channels != 3:
        raise SettingsError(f"torchvision:{name} takes images of 3 channels, not {channels}")
    # Both warn unless told how to draw their weights, and the old way takes a minute.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=classes, **options)  # type: ignore[no-any-return]


def _timm(name: str, classes: int, channels: int) -> nn.Module:
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:
        raise SettingsError(_missing("timm", error)) from error
    require_known("timm model", name, timm.list_models())
    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=channels)


def _missing(library: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"{library} cannot be imported ({reason}); pip install 'cnnsplitter[{library}]'"


_BUILDERS: Mapping[str, Callable[[str, int, int], nn.Module]] = MappingProxyType(
    {"torchvision": _torchvision, "timm": _timm}
)
