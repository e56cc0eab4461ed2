"""One seeded split into train, search, calibration and test, which no class filter can change."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from cnnsplitter.data.copies import repeated_images
from cnnsplitter.data.folders import broken_files
from cnnsplitter.data.images import ImageSet, class_ranks
from cnnsplitter.data.stores import ConcatImages, Images
from cnnsplitter.errors import DataError, SettingsError, require_seed


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
        """Return ``ImageSet.balanced`` of each set; ``SettingsError`` for a seed that is none."""
        require_seed(seed)
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
    renumbering them or mixing stores, before or after, moves no image. Where one that is in the
    stores more than once goes depends on its pixels and the seed, so that all copies go to one set;
    copies of test images are left out of the other sets.

    Args:
        train: All images of the classes wanted; arbitrary subsets of a class split differently.
        test: The official test set, which stays as it is; None takes a share of ``train``.
        shares: How the images are shared out.
        seed: Of the permutation of the images.

    Raises:
        DataError: If an image is given twice, or classes or shapes of the sets differ.
        SettingsError: If ``seed`` is negative or 2**63 or more.
    """
    require_seed(seed)
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
    stores = [train.images, *([] if test is None else [test.images])]
    copies = _copies_in(stores)
    for position, row in enumerate(train.rows.tolist()):
        digest = copies[id(train.images)].get(row)
        if digest is not None:
            part[position] = sum(_chance(digest, seed) >= end for end in ends)
    sets = [train.take(part == index) for index in range(4)]
    splits = Splits(sets[1], sets[2], sets[3], sets[0] if test is None else test)
    return _disjoint([splits], copies)[0]


def without_copies(several: Sequence[Splits]) -> list[Splits]:
    """Return splits such that no image of one set is in a set of another kind of any of them.

    An image stays in the set that matters most: test, calibration, search, train.
    """
    stores = [part.images for splits in several for part in splits.sets]
    return _disjoint(several, _copies_in(stores))


def unseen(data: Splits, other: Splits) -> Splits:
    """Return splits whose held-out images another model has not seen.

    Images are the same if shape, type and every pixel are.

    Args:
        data: The splits; calibration loses what ``other`` trains on, test what it searches on, too.
        other: Splits of another source, or with other shares.

    Raises:
        DataError: If no image of a class is left in a set.
    """
    parts = (other.train, other.search, data.calibration, data.test)
    copies = _copies_in([part.images for part in parts])
    train, search, calibration, test = (_digests_of(part, copies) for part in parts)
    return Splits(
        data.train,
        data.search,
        _without(data.calibration, calibration, set(train) - {None}),
        _without(data.test, test, {*train, *search} - {None}),
    )


def _without(part: ImageSet, digests: Sequence[bytes | None], known: set[bytes | None]) -> ImageSet:
    if not known.intersection(digests):
        return part
    kept = part.take(torch.tensor([digest not in known for digest in digests]))
    for name, before, after in zip(part.classes, part.counts(), kept.counts(), strict=True):
        if before and not after:
            raise DataError(
                f"{part.images.name}: all held-out images of class {name!r} are training images of "
                "the other model; add images, or use one source for both"
            )
    return kept


def _disjoint(several: Sequence[Splits], copies: Mapping[int, Mapping[int, bytes]]) -> list[Splits]:
    kept: list[list[ImageSet]] = [[] for _ in several]
    seen: set[bytes] = set()
    for index in (3, 2, 1, 0):
        found: set[bytes] = set()
        for splits, sets in zip(several, kept, strict=True):
            part = splits.sets[index]
            digests = _digests_of(part, copies)
            if seen.intersection(digests):
                part = part.take(torch.tensor([digest not in seen for digest in digests]))
            found.update(digest for digest in digests if digest is not None)
            sets.insert(0, part)
        seen |= found
    return [Splits(*sets) for sets in kept]


def _digests_of(part: ImageSet, copies: Mapping[int, Mapping[int, bytes]]) -> list[bytes | None]:
    """Return the digest of each image that is there more than once, [] if none is."""
    known = copies[id(part.images)]
    return [known.get(row) for row in part.rows.tolist()] if known else []


def _copies_in(stores: Sequence[Images]) -> dict[int, dict[int, bytes]]:
    """Return the digests of images that are there more than once, by store and row."""
    different = {id(store): store for store in stores}
    return dict(zip(different, repeated_images(list(different.values())), strict=True))


def _chance(digest: bytes, seed: int) -> float:
    """Return a random number from 0 to 1 that depends on the image and the seed alone."""
    mixed = blake2b(digest, digest_size=8, salt=seed.to_bytes(16, "little", signed=True)).digest()
    return int.from_bytes(mixed, "little") / 2**64


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
