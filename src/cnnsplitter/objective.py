"""What a search maximises: accuracy, difference between class modules and small size."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """The weights of an ensemble's fitness (method.md section 2.5).

    ``fitness = accuracy * a + difference * d + (1 - kept share) * s``. The accuracy weight grows by
    ``max(0, gamma - best accuracy so far)``. The published search leaves the other weight as it is,
    so its fitness can pass 1 and small modules earn nothing; by default the weights are divided by
    their sum and size counts (method.md section 4, item 2).

    Attributes:
        accuracy: Weight of the composed model's accuracy.
        difference: Weight of the mean difference between class modules.
        size: Weight of the share of kernels that is dropped.
        gamma: Accuracy below which the accuracy weight is raised.
        normalised: Divide the weights by their sum.
    """

    accuracy: float = 0.9
    difference: float = 0.1
    size: float = 0.1
    gamma: float = 0.0
    normalised: bool = True

    @classmethod
    def paper(cls, alpha: float, gamma: float) -> Self:
        """Return the published form, ``alpha * accuracy + (1 - alpha) * difference``."""
        return cls(alpha, 1 - alpha, 0.0, gamma, normalised=False)

    def fitness(
        self, accuracy: Tensor, difference: Tensor, kept: Tensor, best_accuracy: float
    ) -> Tensor:
        """Return the fitness of ensembles, given the best accuracy of earlier generations.

        Args:
            accuracy: float64[k].
            difference: float64[k], see `mean_difference`.
            kept: float64[k], mean share of the kernels that the class modules keep.
            best_accuracy: Highest accuracy of a generation's best ensemble so far.
        """
        raised = self.accuracy + max(0.0, self.gamma - best_accuracy)
        total = raised + self.difference + self.size if self.normalised else 1.0
        return (raised * accuracy + self.difference * difference + self.size * (1 - kept)) / total

    def measure(self, accuracy: float, difference: float, kept: float) -> float:
        """Return the figure by which generations are compared, the same in all of them.

        The fitness drifts with the accuracy weight, so it cannot compare generations: here the
        weight is not raised. The published form compares generations by accuracy alone.
        """
        if not self.normalised:
            return accuracy
        total = self.accuracy + self.difference + self.size
        weighted = self.accuracy * accuracy + self.difference * difference + self.size * (1 - kept)
        return weighted / total


def jaccard(keep: Tensor, kernels_per_unit: Tensor) -> Tensor:
    """Return the overlap of every two selections: kernels kept by both over kernels kept by either.

    Args:
        keep: bool[k, units].
        kernels_per_unit: int64[units]; kernels that no selection can drop are not counted.

    Returns:
        float64[k, k], symmetric, ones on the diagonal; two empty selections overlap 1.
    """
    # float32 sums of whole numbers are exact up to 2**24 kernels and twice as fast as float64
    kept = keep.float()
    both = (kept * kernels_per_unit) @ kept.T
    count = both.diagonal()
    either = count[:, None] + count[None, :] - both
    return torch.where(either > 0, both.double() / either.double(), 1.0)


def mean_difference(keep: Tensor, kernels_per_unit: Tensor) -> float:
    """Return ``diff``: the mean of 1 - Jaccard over all pairs of selections; 0 of a single one.

    Args:
        keep: bool[classes, units].
        kernels_per_unit: int64[units].
    """
    if len(keep) == 1:
        return 0.0
    pairs = torch.combinations(torch.arange(len(keep)))
    overlap = jaccard(keep, kernels_per_unit)
    return 1 - overlap[pairs[:, 0], pairs[:, 1]].mean().item()


def kept_share(keep: Tensor, kernels_per_unit: Tensor) -> Tensor:
    """Return the share of the selectable kernels that is kept.

    Args:
        keep: bool[..., units].
        kernels_per_unit: int64[units].

    Returns:
        float64[...], between 0 and 1.
    """
    weights = kernels_per_unit.double()
    return (keep.double() @ weights) / weights.sum()


def composed_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Return the accuracy of the argmax over own-class scores.

    Where there is one row only, it is a margin: an image is right where it is positive.

    Args:
        scores: float[classes, n].
        labels: int64[n].
    """
    right = scores[0] > 0 if len(scores) == 1 else scores.argmax(dim=0) == labels
    return right.double().mean().item()
