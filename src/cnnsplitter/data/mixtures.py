"""Mixtures: the classes of two image sets side by side."""

import torch

from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.splits import Splits, without_copies
from cnnsplitter.data.stores import ConcatImages
from cnnsplitter.errors import DataError


def mix(first: ImageSet, second: ImageSet) -> ImageSet:
    """Return the images of both, with the classes of ``first`` before those of ``second``.

    Raises:
        DataError: If both have a class of the same name, or shape or type of the images differ.
    """
    doubled = sorted(set(first.classes) & set(second.classes))
    if doubled:
        raise DataError(
            f"{first.images.name} and {second.images.name} both have class {doubled[0]!r}; "
            "leave it out of one"
        )
    return ImageSet(
        ConcatImages((first.images, second.images)),
        torch.cat([first.rows, second.rows + len(first.images)]),
        torch.cat([first.labels, second.labels + len(first.classes)]),
        first.classes + second.classes,
    )


def mix_splits(first: Splits, second: Splits) -> Splits:
    """Return the mixture of each of the four sets: every image stays in the split it is in.

    One that is in a split of both is left out of the one that matters less: test, calibration,
    search, train.

    Raises:
        DataError: As ``mix``.
    """
    one, other = without_copies((first, second))
    pairs = zip(one.sets, other.sets, strict=True)
    return Splits(*(mix(mine, theirs) for mine, theirs in pairs))
