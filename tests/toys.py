"""Small models with random weights and random images, for tests of what comes after training."""

import torch
from torch import nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import sized_values
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.surgery import extract
from strategies import randomise

CLASSES = ("bird", "cat", "dog")
SHAPE = (3, 16, 16)


def classifier(
    name: str = "weak-rescnn-5",
    *,
    classes: tuple[str, ...] = CLASSES,
    shape: tuple[int, int, int] = SHAPE,
    width: float = 0.1,
    seed: int = 0,
) -> Classifier:
    """A network of this package with random weights and batch-norm statistics."""
    net, architecture = build_model(name, len(classes), shape, width=width, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in net.state_dict().items():
        if tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(noise + 0.5 if "running_var" in key else 0.4 * noise - 0.1)
    return Classifier(net, classes, shape, Preprocessing((0.5,), (0.25,)), architecture)


def own_classifier(net: nn.Module, seed: int = 0) -> Classifier:
    """A user's own network with random weights."""
    randomise(net, torch.Generator().manual_seed(seed))
    return Classifier(net, CLASSES, SHAPE)


_MAPS: dict[str, ChannelMap] = {}


def traced(strong: Classifier) -> ChannelMap:
    """The channel map, traced once per architecture, as weights do not matter."""
    key = f"{strong.architecture} {strong.input_shape}"
    if strong.architecture is None or key not in _MAPS:
        _MAPS[key] = ChannelMap.trace(strong.net, strong.example())
    return _MAPS[key]


def class_module(strong: Classifier, name: str = "cat", share: float = 0.5) -> ClassModule:
    """The class module of a random selection."""
    channels = traced(strong)
    selection = channels.random_selection(share, generator=torch.Generator().manual_seed(1))
    narrow = extract(strong.net, channels, selection)
    sized = sized_values(channels, selection.keep)
    return ClassModule.of(strong, name, narrow, selection, sized)


def image_set(
    count: int = 30,
    *,
    classes: tuple[str, ...] = CLASSES,
    shape: tuple[int, int, int] = SHAPE,
    seed: int = 0,
) -> ImageSet:
    """Noise; the classes take turns."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=generator)
    return ImageSet.from_arrays(images, torch.arange(count) % len(classes), classes, "noise")


def splits(count: int = 30, *, classes: tuple[str, ...] = CLASSES) -> Splits:
    return Splits(*(image_set(count, classes=classes, seed=seed) for seed in range(4)))
