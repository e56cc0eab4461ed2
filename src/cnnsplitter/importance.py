"""Importance: how strongly each unit answers to each class (method.md, section 2, step 1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier, require_finite
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.inference import device_of, in_parts
from cnnsplitter.nets import eval_mode
from cnnsplitter.progress import Progress, Step, silent

_KIND = "importance"


@dataclass(frozen=True, eq=False)
class Importance:
    """The importance of every unit for every class.

    Attributes:
        scores: float32[classes, units]; comparable within a group of units, not between groups.
        samples: int64[classes], the images each row was measured on.
        confident: bool[classes], whether these are the confident ones; False where a class had
            none and all its images were used.
        fingerprint: Fingerprint of the channel map.
        weights: Digest of the strong model's weights; empty where it is not known.
    """

    scores: Tensor
    samples: Tensor
    confident: Tensor
    fingerprint: str
    weights: str = ""

    def save(self, path: Path) -> None:
        """Write everything to one file, replacing what is there.

        Raises:
            StorageError: The file cannot be written.
        """
        tensors = {"scores": self.scores, "samples": self.samples, "confident": self.confident}
        manifest = {"kind": _KIND, "fingerprint": self.fingerprint, "weights": self.weights}
        write_tensors(path, tensors, manifest)

    @classmethod
    def load(cls, path: Path, channels: ChannelMap) -> "Importance":
        """Read what ``save`` wrote.

        Raises:
            StorageError: The file is missing, broken, or not of the network of ``channels``.
        """
        tensors, manifest = read_tensors(path)
        weights = manifest.pop("weights", "")
        known = manifest == {"kind": _KIND, "fingerprint": channels.fingerprint}
        if not known or not isinstance(weights, str):
            raise StorageError(f"{path}: holds no importance of this network; remove it")
        try:
            found = cls(**tensors, fingerprint=channels.fingerprint, weights=weights)
        except TypeError as error:
            raise StorageError(f"{path}: is incomplete ({error}); remove it") from error
        if not found.is_whole(channels.unit_count):
            raise StorageError(f"{path}: is broken; remove it")
        return found

    def is_whole(self, units: int) -> bool:
        """Return whether all tensors are of their type and shape, and the scores are finite."""
        classes = (len(self.scores),) if self.scores.ndim else ()
        kinds = (
            (self.scores, torch.float32, (*classes, units)),
            (self.samples, torch.int64, classes),
            (self.confident, torch.bool, classes),
        )
        fit = all(t.dtype == dtype and t.shape == shape for t, dtype, shape in kinds)
        return fit and bool(self.scores.isfinite().all())


def uniform_importance(channels: ChannelMap, class_count: int) -> Importance:
    """Return the baseline in which every unit is equally important."""
    return Importance(
        torch.ones(class_count, channels.unit_count),
        torch.zeros(class_count, dtype=torch.int64),
        torch.zeros(class_count, dtype=torch.bool),
        channels.fingerprint,
    )


def measure_importance(
    strong: Classifier,
    channels: ChannelMap,
    data: ImageSet,
    *,
    confidence: float = 0.9,
    batch_size: int = 128,
    progress: Progress = silent,
) -> Importance:
    """Measure the mean L1 of each unit's feature map over confident samples of each class.

    A feature map is taken where the next layer reads it, so after activation, norm and pooling.

    Args:
        strong: The strong model.
        channels: Channel map of ``strong.net``.
        data: Images with the strong model's classes; one pass is made over them.
        confidence: Least probability of the true class for a sample to count.
        batch_size: Images at a time, fewer if they do not fit into memory; does not change the
            result.
        progress: Called after every batch.

    Raises:
        DataError: If a class has no image.
        ModelError: Weights that are not finite, or not even one image fits into memory.
    """
    require_finite(strong.net)
    strong.require_classes(data.classes)
    require_every_class(data, "importance")
    sums = torch.zeros(2, len(data.classes), channels.unit_count, dtype=torch.float64)
    counts = torch.zeros(2, len(data.classes), dtype=torch.int64)
    device, batches = device_of(strong), -(-len(data) // batch_size)
    with torch.inference_mode(), eval_mode(strong), _feature_maps(strong.net, channels) as maps:
        most = batch_size

        def measured(part: Tensor) -> Tensor:
            """Return probabilities and scores side by side; what broke off before is forgotten."""
            maps.total = None
            probabilities = strong(part.to(device)).softmax(dim=1).cpu()
            return torch.cat([probabilities.double(), maps.take()], dim=1)

        for index, (images, labels) in enumerate(data.batches(batch_size)):
            parts, most = in_parts(measured, images, most)
            probabilities, scores = torch.cat(parts).tensor_split([len(data.classes)], dim=1)
            sure = probabilities.float().gather(1, labels[:, None])[:, 0] >= confidence
            for row, chosen in enumerate((sure, torch.ones_like(sure))):
                sums[row].index_add_(0, labels[chosen], scores[chosen])
                counts[row] += torch.bincount(labels[chosen], minlength=len(data.classes))
            progress(Step("importance", index + 1, batches))
    confident = counts[0] > 0
    samples = torch.where(confident, counts[0], counts[1])
    total = torch.where(confident[:, None], sums[0], sums[1])
    return Importance(
        (total / samples[:, None]).float(),
        samples,
        confident,
        channels.fingerprint,
        strong.weights_digest(),
    )


def require_every_class(data: ImageSet, purpose: str) -> None:
    """Raise ``DataError`` unless each class has an image."""
    missing = [name for name, n in zip(data.classes, data.counts(), strict=True) if n == 0]
    if missing:
        raise DataError(
            f"{data.images.name}: no image of {', '.join(missing)}, but {purpose} needs some of "
            "every class; add some or leave the class out"
        )


class _FeatureMaps:
    """Collects float64[B, units] during one forward pass: the mean over a unit's readers."""

    def __init__(self, channels: ChannelMap) -> None:
        self.unit_count = channels.unit_count
        self.units = {reader.name: reader.units for reader in channels.readers}
        self.shares = {name: self._share(units) for name, units in self.units.items()}
        readers = torch.stack([share > 0 for share in self.shares.values()]).sum(dim=0)
        self.readers_of_unit = readers.clamp(min=1)
        self.total: Tensor | None = None

    def _share(self, units: Tensor) -> Tensor:
        return torch.bincount(units[units >= 0], minlength=self.unit_count)

    def add(self, name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Note what the reader ``name`` sees; a pre-forward hook."""
        x, units = args[0], self.units[name]
        axis = -1 if isinstance(module, nn.Linear) else 1
        pixels = x.movedim(axis, 1).reshape(len(x), len(units), -1)
        size = torch.linalg.vector_norm(pixels, ord=1, dim=2).cpu().double() / pixels.shape[2]
        kept = units >= 0
        if self.total is None:
            self.total = torch.zeros(len(x), self.unit_count, dtype=torch.float64)
        # only the columns that this reader sees are touched: most networks have many readers
        self.total.index_add_(1, units[kept], size[:, kept] / self.shares[name][units[kept]])

    def take(self) -> Tensor:
        assert self.total is not None
        total, self.total = self.total, None
        return total / self.readers_of_unit


@contextmanager
def _feature_maps(net: nn.Module, channels: ChannelMap) -> Iterator[_FeatureMaps]:
    maps = _FeatureMaps(channels)
    handles = []
    try:
        for reader in channels.readers:
            hook = partial(maps.add, reader.name)
            handles.append(net.get_submodule(reader.name).register_forward_pre_hook(hook))
        yield maps
    finally:
        for handle in handles:
            handle.remove()
