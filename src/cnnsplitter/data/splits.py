"""One seeded split into train, search, calibration and test, which no class filter can change."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cnnsplitter.data.folders import broken_files
from cnnsplitter.data.images import ImageSet, class_ranks
from cnnsplitter.data.stores import ConcatImages, Images
from cnnsplitter.errors import DataError, SettingsError


@dataclass(frozen=True)
class SplitShares:
    """How the images are shared out; a zero share gives an empty set.

    Attributes:
        train: Share of the images that are not test images; the first three add up to 1.
        search: Likewise: the images on which selections are scored.
        calibration: Likewise: the images on which calibrations are fitted.
        test: Share of all images, taken only where there is no official test set.
    """

    train: float = 0.7
    search: float = 0.15
    calibration: float = 0.15
    test: float = 0.2

    def __post_init__(self) -> None:
        parts = (self.train, self.search, self.calibration)
        if not all(0 <= share <= 1 for share in (*parts, self.test)):
            raise SettingsError(f"shares must lie between 0 and 1, got {self}")
        if not math.isclose(sum(parts), 1, abs_tol=1e-6):
            raise SettingsError(f"train, search and calibration must add up to 1, got {self}")


@dataclass(frozen=True, eq=False)
class Splits:
    """Four sets of the same classes and image shape, made by ``make_splits``.

    Attributes:
        train: For the weights of a network.
        search: For the choice of selections.
        calibration: For fitting calibrations.
        test: For the figures that are reported, nothing else.

    Raises:
        DataError: If classes or image shapes differ.
    """

    train: ImageSet
    search: ImageSet
    calibration: ImageSet
    test: ImageSet

    def __post_init__(self) -> None:
        first = self.train
        for other in self.sets[1:]:
            if other.classes != first.classes:
                raise DataError(
                    f"{first.images.name} has classes {', '.join(first.classes)} but "
                    f"{other.images.name} {', '.join(other.classes)}; they must be the same"
                )
            if other.images.shape != first.images.shape:
                raise DataError(
                    f"{first.images.name} holds images of shape {first.images.shape} but "
                    f"{other.images.name} of shape {other.images.shape}; they must be the same"
                )

    @property
    def sets(self) -> tuple[ImageSet, ImageSet, ImageSet, ImageSet]:
        """Train, search, calibration and test."""
        return self.train, self.search, self.calibration, self.test

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, the same in all four sets."""
        return self.train.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.train.images.shape

    @property
    def broken(self) -> tuple[Path, ...]:
        """The image files that were left out because they are broken."""
        return broken_files(part.images for part in self.sets)

    def only(self, names: Iterable[str]) -> "Splits":
        """Return ``ImageSet.only`` of each set."""
        names = tuple(names)
        return self._each(lambda part: part.only(names))

    def relabel(self, classes: Iterable[str]) -> "Splits":
        """Return ``ImageSet.relabel`` of each set."""
        classes = tuple(classes)
        return self._each(lambda part: part.relabel(classes))

    def balanced(self, seed: int) -> "Splits":
        """Return ``ImageSet.balanced`` of each set."""
        return self._each(lambda part: part.balanced(torch.Generator().manual_seed(seed)))

    def _each(self, change: Callable[[ImageSet], ImageSet]) -> "Splits":
        return Splits(*(change(part) for part in self.sets))


DEFAULT_SHARES = SplitShares()


def make_splits(
    train: ImageSet,
    test: ImageSet | None = None,
    *,
    shares: SplitShares = DEFAULT_SHARES,
    seed: int,
) -> Splits:
    """Split whole data sets once, stratified by class (method.md section 4, item 1).

    Where an image goes depends on its store, its class and the seed only: leaving classes out,
    renumbering them or mixing stores, before or after, moves no image.

    Args:
        train: All images of the classes wanted; arbitrary subsets of a class split differently.
        test: The official test set, which stays as it is; None takes a share of ``train``.
        shares: How the images are shared out.
        seed: Of the permutation of the images.

    Raises:
        DataError: If an image is given twice, or classes or shapes of the sets differ.
    """
    _require_once(train, test)
    rank = class_ranks(train.labels, _priority(train.images, seed)[train.rows])
    sizes = train.counts()[train.labels]
    held_out = shares.test if test is None else 0.0
    rest = 1 - held_out
    ends = (
        held_out,
        held_out + rest * shares.train,
        held_out + rest * (shares.train + shares.search),
    )
    part = torch.zeros(len(train), dtype=torch.int64)
    for end in ends:
        part += rank >= (end * sizes.double() + 0.5).floor()
    sets = [train.take(part == index) for index in range(4)]
    return Splits(sets[1], sets[2], sets[3], sets[0] if test is None else test)


def _priority(images: Images, seed: int) -> Tensor:
    """Return a random number int64[N] per image; in a mixture each store keeps its own."""
    if isinstance(images, ConcatImages):
        return torch.cat([_priority(part, seed) for part in images.parts])
    return torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))


def _require_once(train: ImageSet, test: ImageSet | None) -> None:
    rows = train.rows
    if test is not None and test.images is train.images:
        rows = torch.cat([rows, test.rows])
    if len(torch.unique(rows)) != len(rows):
        raise DataError(
            f"{train.images.name}: an image is given twice, so it could be in two splits; "
            "give each image once"
        )
