"""Train the zoo's networks: quarter-width strong CNNs, and weak ones short of one class.

The strong networks are trained with batch norm behind every convolution, which starts them within
an epoch; it is folded into the convolutions afterwards, so that the published networks are left.
Run again after a stop, it goes on.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits, load_data
from cnnsplitter.evaluation import evaluate
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.progress import Progress
from cnnsplitter.results import machine, versions
from cnnsplitter.storage.saving import load_as, save
from cnnsplitter.training import Training, train

WIDTH = 0.25
SCARCE = 50
"""Training images of its scarce class that a weak network sees."""


@dataclass(frozen=True)
class ZooData:
    """What the networks of one data set share.

    Attributes:
        name: The data set.
        mean: Per channel, of its images.
        std: Likewise.
        epochs: Of the strong networks.
        weak_epochs: Of the weak ones.
        shift: See ``Training``.
    """

    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    epochs: int
    weak_epochs: int
    shift: int


@dataclass(frozen=True)
class ZooFamily:
    """A strong network, the weak one of its kind, and the class that the weak one is short of."""

    network: str
    data: ZooData
    scarce: str
    seed: int = 0

    @property
    def name(self) -> str:
        """What the strong network is called."""
        return f"{self.network}-{self.data.name}"

    @property
    def weak_name(self) -> str:
        """What the weak network is called."""
        return f"weak-{self.name}-{self.scarce}"

    @property
    def module_name(self) -> str:
        """What the class module is called."""
        return f"{self.name}-{self.scarce}"

    def training(self) -> Training:
        """Return how the strong network is trained."""
        found = Training.strong(self.data.epochs)
        return found.model_copy(
            update={"learning_rate": 0.1, "clip": 5.0, "shift": self.data.shift}
        )

    def weak_training(self) -> Training:
        """Return how the weak network is trained."""
        return Training.weak(self.data.weak_epochs).model_copy(update={"shift": self.data.shift})


CIFAR10 = ZooData("cifar10", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 4, 8, 4)
FASHION = ZooData("fashion-mnist", (0.286,), (0.353,), 1, 2, 2)
FAMILIES = (
    ZooFamily("simcnn", CIFAR10, "truck"),
    ZooFamily("rescnn", CIFAR10, "horse"),
    ZooFamily("simcnn", FASHION, "sandal"),
    ZooFamily("rescnn", FASHION, "bag"),
)


def opened(family: ZooFamily, place: Path) -> Splits:
    """Return the images of a family, split as the commands split them without other options."""
    return load_data(place, seed=family.seed)


def strong_of(family: ZooFamily, data: Splits, folder: Path, progress: Progress) -> Classifier:
    """Return the strong network, trained if that is not done."""
    path = folder / f"{family.name}.safetensors"
    if not path.exists():
        start = _start(family, family.network, data, 0.1)
        normed = with_norms(start)
        normed.net.to(memory_format=torch.channels_last)  # faster on processors
        settings = family.training()
        _train(family.name, normed, data, settings, family, folder, progress, start)
    return load_as(Classifier, path)


def weak_of(family: ZooFamily, data: Splits, folder: Path, progress: Progress) -> Classifier:
    """Return the weak network, trained if that is not done."""
    name = family.weak_name
    path = folder / f"{name}.safetensors"
    if not path.exists():
        start = _start(family, f"weak-{family.network}", data)
        few = short_of(data, family.scarce, SCARCE, family.seed)
        _train(name, start, few, family.weak_training(), family, folder, progress, None)
    return load_as(Classifier, path)


def short_of(data: Splits, name: str, most: int, seed: int) -> Splits:
    """Leave at most so many training images of one class."""
    positions = (data.train.labels == data.classes.index(name)).nonzero().flatten()
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(len(data.train), dtype=torch.bool)
    keep[positions[order[most:]]] = False
    return Splits(data.train.take(keep), data.search, data.calibration, data.test)


def _start(
    family: ZooFamily, network: str, data: Splits, dropout: float | None = None
) -> Classifier:
    shape, size = data.input_shape, len(data.classes)
    net, architecture = build_model(
        network, size, shape, width=WIDTH, dropout=dropout, seed=family.seed
    )
    scaling = Preprocessing(family.data.mean, family.data.std)
    return Classifier(net, data.classes, data.input_shape, scaling, architecture)


def _train(
    name: str,
    start: Classifier,
    data: Splits,
    settings: Training,
    family: ZooFamily,
    folder: Path,
    progress: Progress,
    plain: Classifier | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / f"{name}.checkpoint"
    trained = train(
        start,
        data.train,
        None,
        settings,
        seed=family.seed,
        checkpoint=checkpoint,
        progress=progress,
        stage=f"train {name}",
    )
    found = trained.classifier if plain is None else folded(trained.classifier, plain)
    details = {
        "seed": family.seed,
        "data": family.data.name,
        "training": settings.model_dump(),
        "training_images": len(data.train),
        "metrics": {
            "calibration_accuracy": evaluate(found, data.calibration).accuracy,
            "test_accuracy": evaluate(found, data.test).accuracy,
        },
        "versions": versions(),
        "machine": machine(),
    }
    save(found, folder / f"{name}.safetensors", details=details, overwrite=True)
    checkpoint.unlink()


def with_norms(plain: Classifier) -> Classifier:
    """Return a copy with batch norm behind every convolution."""
    normed = copy.deepcopy(plain)
    normed.architecture = None
    for name, conv in list(normed.net.named_modules()):
        if isinstance(conv, nn.Conv2d):
            pair = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
            normed.net.set_submodule(name, pair)
    return normed


def folded(normed: Classifier, plain: Classifier) -> Classifier:
    """Return ``plain`` with the weights of ``normed``, whose norms are folded into them."""
    found = copy.deepcopy(plain)
    normed.eval()
    for name, layer in list(found.net.named_modules()):
        if isinstance(layer, nn.Conv2d):
            conv, norm = normed.net.get_submodule(name).children()
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            fused = fuse_conv_bn_eval(conv, norm)
            layer.load_state_dict({k: v.contiguous() for k, v in fused.state_dict().items()})
        elif isinstance(layer, nn.Linear):
            layer.load_state_dict(normed.net.get_submodule(name).state_dict())
    return found.eval()
