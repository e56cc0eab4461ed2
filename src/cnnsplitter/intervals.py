"""How sure measured figures are: intervals of shares, and of changes on the same images."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COVERAGE = 0.95
"""How often an interval holds the true figure, where many like it are made."""
_RESAMPLES = 2000
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A figure and where the true one lies with probability ``COVERAGE``.

    Attributes:
        estimate: What was measured.
        low: The lower end.
        high: The upper end.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.estimate:.1f} ({100 * self.low:.1f} to {100 * self.high:.1f})"


def share_interval(hits: float, size: float) -> Interval:
    """Return the share of ``hits`` among ``size`` with Wilson's interval (1927).

    Without any it is 0 to 1: nothing is known.
    """
    if size <= 0:
        return Interval(0.0, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    share = hits / size
    middle = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * (share * (1 - share) / size + (z / (2 * size)) ** 2) ** 0.5
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    # Rounding must not leave the estimate of 0 or 1 outside.
    return Interval(share, min(low, share), max(high, share))


def f1_interval(hits: float, predicted: float, actual: float) -> Interval:
    """Return F1 with an interval.

    F1 is 2 J / (1 + J), where J is the share of hits among all images that are of the class or
    taken for it. Given their number, the hits are binomial, so that Wilson's interval of J gives
    one of F1.

    Args:
        hits: Images of the class that are found.
        predicted: Images that are taken for it.
        actual: Images of it.
    """
    jaccard = share_interval(hits, predicted + actual - hits)
    low, high = (2 * j / (1 + j) for j in (jaccard.low, jaccard.high))
    estimate = 2 * hits / (predicted + actual) if predicted + actual else 0.0
    return Interval(estimate, min(low, estimate), max(high, estimate))


def paired_changes(
    labels: Tensor, before: Tensor, after: Tensor, target: int
) -> Mapping[str, Interval]:
    """Return the changes of precision, recall, F1 and accuracy on the other classes.

    The intervals are percentiles of a bootstrap that draws images, with both predictions of each
    (Efron and Tibshirani 1993); it has a fixed seed.

    Args:
        labels: int64[n], true classes.
        before: int64[n], the first model's predictions.
        after: int64[n], the second model's.
        target: The class.

    Returns:
        ``precision``, ``recall``, ``f1`` and ``other``, as ``Comparison`` names them.
    """
    facts = [labels == target, before == target, after == target, before == labels, after == labels]
    codes = sum(fact.long() << bit for bit, fact in enumerate(facts))
    counts = torch.bincount(torch.as_tensor(codes), minlength=32).numpy()
    generator = np.random.default_rng(_SEED)
    drawn = generator.multinomial(len(labels), counts / max(len(labels), 1), size=_RESAMPLES)
    measured, resampled = _changes(counts[None]), _changes(drawn)
    tails = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
    return {
        name: Interval(float(measured[name][0]), *map(float, np.quantile(values, tails)))
        for name, values in resampled.items()
    }


def mcnemar(lost: int, won: int) -> float:
    """Return how likely flips at least as one-sided are by chance (McNemar 1947, exact test)."""
    from scipy.stats import binomtest

    return float(binomtest(won, lost + won).pvalue) if lost + won else 1.0


def _changes(counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Return the changes for counts [r, 32] of images with the same five facts."""
    is_target, *rest = (np.arange(32) >> bit & 1 for bit in range(5))
    first, second = (_figures(counts, is_target, *rest[stage::2]) for stage in (0, 1))
    return {name: second[name] - first[name] for name in first}


def _figures(
    counts: NDArray[np.int64],
    is_target: NDArray[np.int64],
    taken: NDArray[np.int64],
    right: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    is_other = 1 - is_target
    wanted = (is_target & taken, taken, is_target, is_other & right, is_other)
    # Whole numbers have no fast matrix product.
    sums = counts.astype(np.float64) @ np.stack(wanted, axis=1).astype(np.float64)
    hits, predicted, actual, right_others, others = sums.T
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(actual, 1),
        "f1": 2 * hits / np.maximum(predicted + actual, 1),
        "other": right_others / np.maximum(others, 1),
    }
