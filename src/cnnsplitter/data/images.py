"""A labelled set of images: which rows of a store, with which labels."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cnnsplitter.data.arrays import image_shape, to_labels, to_nchw
from cnnsplitter.data.dataset import DatasetImages
from cnnsplitter.data.stores import Images, TensorImages
from cnnsplitter.errors import DataError, SettingsError, require_known, require_seed

Values = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of a store; taking a subset copies no image.

    Attributes:
        images: The store.
        rows: int64[n], which images of the store.
        labels: int64[n], index into ``classes``.
        classes: Class names; a class may have no image.

    Raises:
        DataError: If lengths, labels, rows or class names do not fit together.
    """

    images: Images
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        name = self.images.name
        if len(self.rows) != len(self.labels):
            raise DataError(f"{name}: {len(self.rows)} images but {len(self.labels)} labels")
        doubled = {c for c in self.classes if self.classes.count(c) > 1}
        if doubled:
            raise DataError(
                f"{name}: class {min(doubled)!r} is named twice; class names must differ"
            )
        for unstorable in (c for c in self.classes if not _is_storable(c)):
            raise DataError(
                f"{name}: class {unstorable!r} is no text that a file can hold; rename the class"
            )
        _require_range(f"{name}: label", self.labels, len(self.classes), "classes")
        _require_range(f"{name}: row", self.rows, len(self.images), "images")

    @classmethod
    def whole(cls, images: Images, labels: Tensor, classes: Iterable[str]) -> "ImageSet":
        """Return all images of a store, with ``labels`` int64[N]."""
        return cls(images, torch.arange(len(images)), labels, tuple(classes))

    @classmethod
    def from_arrays(
        cls,
        images: NDArray[Any] | Tensor,
        labels: ArrayLike | Tensor,
        classes: Iterable[str],
        name: str = "arrays",
    ) -> "ImageSet":
        """Return a set over arrays in memory, which are not copied where types allow it.

        Args:
            images: uint8 or floating; NumPy [N, H, W] or [N, H, W, C], tensor [N, C, H, W].
            labels: N whole numbers, index into ``classes``.
            classes: Class names.
            name: What errors call the set.

        Raises:
            DataError: If shapes, types or values do not fit.
        """
        if not isinstance(images, Tensor):
            image_shape(images, name)
            images = to_nchw(images)
        return cls.whole(TensorImages(name, images), to_labels(labels, name), classes)

    @classmethod
    def from_dataset(
        cls, dataset: Dataset[Any], classes: Iterable[str] | None = None, name: str | None = None
    ) -> "ImageSet":
        """Return a set over a map-style PyTorch ``Dataset`` of (image, label) pairs.

        Args:
            dataset: See ``DatasetImages`` for the kinds of image.
            classes: Class names; None takes ``dataset.classes``.
            name: What errors call the set; None takes the name of the data set's type.

        Raises:
            DataError: If the items do not fit or no class names are known.
        """
        name = name or type(dataset).__name__
        names: Sequence[str] | None = getattr(dataset, "classes", None)
        if classes is None and names is None:
            raise DataError(f"{name}: the data set has no `classes`; give classes=(...)")
        images = DatasetImages(dataset, name)
        return cls.whole(images, images.labels(), classes if classes is not None else names or ())

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> "ImageSet":
        """Return the images at ``positions`` (int64[k], or bool[n]) of this set."""
        return replace(self, rows=self.rows[positions], labels=self.labels[positions])

    def only(self, names: Iterable[str]) -> "ImageSet":
        """Return the images of these classes; labels and ``classes`` stay as they are.

        Raises:
            SettingsError: If a name is not one of ``classes``.
        """
        return self.take(torch.isin(self.labels, self._indices(names)))

    def relabel(self, classes: Iterable[str]) -> "ImageSet":
        """Return the images of ``classes``, which become the new classes, in that order.

        Raises:
            SettingsError: If a name is unknown or given twice.
        """
        classes = tuple(classes)
        indices = self._indices(classes)
        if len(set(classes)) != len(classes):
            raise SettingsError(f"a class is given twice in {', '.join(classes)}")
        renumbered = torch.full((len(self.classes),), -1)
        renumbered[indices] = torch.arange(len(classes))
        labels = renumbered[self.labels]
        kept = labels >= 0
        return replace(self, rows=self.rows[kept], labels=labels[kept], classes=classes)

    def compact(self) -> "ImageSet":
        """Return a set whose store, if it lies in memory, holds no other images than these."""
        if not isinstance(self.images, TensorImages) or len(self) == len(self.images):
            return self
        store = TensorImages(self.images.name, self.images.read(self.rows))
        return replace(self, images=store, rows=torch.arange(len(self)))

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images [b, C, H, W] and labels int64[b] in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            here = slice(start, start + size)
            yield self.images.read(self.rows[here]), self.labels[here]

    def counts(self) -> Tensor:
        """Return the number of images of each class, int64[classes]."""
        return torch.bincount(self.labels, minlength=len(self.classes))

    def sample(self, n: int, generator: torch.Generator) -> "ImageSet":
        """Return ``n`` random images, or all if there are fewer, in their order in this set.

        Classes are represented in proportion to their size.
        """
        order = torch.randperm(len(self), generator=generator)
        rank = class_ranks(self.labels, order)
        depth = (rank + 0.5) / self.counts()[self.labels]
        by_chance = order.argsort()
        shallowest = by_chance[depth[by_chance].argsort(stable=True)][: max(n, 0)]
        return self.take(shallowest.sort().values)

    def balanced(self, generator: torch.Generator) -> "ImageSet":
        """Return as many random images of every class as the smallest class with images has."""
        counts = self.counts()
        least = counts[counts > 0].min() if len(self) else 0
        rank = class_ranks(self.labels, torch.randperm(len(self), generator=generator))
        return self.take(rank < least)

    def channel_statistics(self, *, most: int = 2000, seed: int = 0) -> tuple[Values, Values]:
        """Return the mean and standard deviation of each channel, as ``Preprocessing`` takes them.

        Args:
            most: At most so many random images are read.
            seed: Of the choice.

        Raises:
            SettingsError: A seed that is none.
        """
        require_seed(seed)
        images = next(self.sample(most, torch.Generator().manual_seed(seed)).batches(most))[0]
        scaled = images.double() / 255 if images.dtype == torch.uint8 else images.double()
        mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
        # A channel without contrast has nothing to scale.
        return tuple(mean.tolist()), tuple(torch.where(std > 0, std, 1.0).tolist())

    def _indices(self, names: Iterable[str]) -> Tensor:
        names = list(names)
        for name in names:
            require_known("class", name, self.classes)
        return torch.tensor([self.classes.index(name) for name in names], dtype=torch.int64)


def class_ranks(labels: Tensor, priority: Tensor) -> Tensor:
    """Return the rank int64[n] of each image by ``priority`` [n] among the images of its class."""
    by_priority = priority.argsort(stable=True)
    order = by_priority[labels[by_priority].argsort(stable=True)]
    counts = torch.bincount(labels)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order)) - first[labels[order]]
    return rank


def _is_storable(name: str) -> bool:
    """Return whether a name has neither NUL nor halves of surrogate pairs."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def _require_range(what: str, values: Tensor, end: int, things: str) -> None:
    wrong = values[(values < 0) | (values >= end)]
    if len(wrong):
        raise DataError(f"{what} {int(wrong[0])} is out of range; there are {end} {things}")
