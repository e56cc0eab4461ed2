"""Sensitivity: what accuracy is left when one layer keeps fewer kernels (method.md, 2, step 3)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from cnnsplitter.channels import ChannelMap, UnitGroup
from cnnsplitter.errors import StorageError
from cnnsplitter.importance import Importance
from cnnsplitter.objective import composed_accuracy
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.search import Scorer

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOLERANCE = 0.1
"""Accuracy that may be lost when all groups start from their knees, if the losses add up."""
START_RATIOS = 3
"""Keep-ratios per group that a search starts from, as in the published settings."""
_ROUNDING = 1e-6


class WholeScorer(Protocol):
    """A scorer that also knows the scores with everything kept, such as ``CutScorer``."""

    @property
    def channels(self) -> ChannelMap:
        """The strong model's channel map."""
        ...

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Score candidates; see ``Scorer``."""
        ...

    def whole(self) -> Tensor:
        """Return float32[classes, n]."""
        ...


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """A curve of composed accuracy for every group of units.

    Attributes:
        groups: Names of the groups, the search's "layers".
        ratios: Rising keep-ratios; the last is 1.
        accuracy: float32[groups, ratios]; the last column is the strong model's own accuracy.
    """

    groups: tuple[str, ...]
    ratios: tuple[float, ...]
    accuracy: Tensor

    def to_json(self) -> dict[str, Any]:
        """Return the curves, and what is chosen from them, as plain JSON values."""
        return {
            "ratios": list(self.ratios),
            "accuracy": dict(zip(self.groups, self.accuracy.tolist(), strict=True)),
            "sensitive": list(self.sensitive()),
            "start_ratios": {name: list(r) for name, r in self.start_ratios().items()},
        }

    @classmethod
    def from_json(cls, value: Any) -> "Sensitivity":
        """Read what ``to_json`` returned; ``StorageError`` if it is something else."""
        try:
            curves, ratios = value["accuracy"], tuple(float(r) for r in value["ratios"])
            accuracy = torch.tensor(list(curves.values()), dtype=torch.float32)
        # OverflowError and RuntimeError: numbers too large, or no numbers, for a tensor.
        except (
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            RuntimeError,
        ) as error:
            raise StorageError(f"these are no sensitivity curves: {error!r}") from error
        rising = all(0 < low < high for low, high in pairwise(ratios)) and ratios[-1:] == (1.0,)
        if not rising or not curves or accuracy.shape != (len(curves), len(ratios)):
            raise StorageError("these are no sensitivity curves: one accuracy per ratio up to 1")
        if not ((accuracy >= 0) & (accuracy <= 1)).all():
            raise StorageError("these are no sensitivity curves: accuracy lies between 0 and 1")
        return cls(tuple(curves), ratios, accuracy)

    @property
    def baseline(self) -> float:
        """Accuracy with all kernels."""
        return self.accuracy[0, -1].item()

    def knees(self, tolerance: float = TOLERANCE) -> tuple[float, ...]:
        """Return per group the least ratio from which on its share of ``tolerance`` is not lost."""
        return tuple(self.ratios[i] for i in self._knee_positions(tolerance))

    def sensitive(self, tolerance: float = TOLERANCE) -> tuple[str, ...]:
        """Return the groups whose knee lies above the median knee."""
        knees = self.knees(tolerance)
        return tuple(
            group
            for group, knee in zip(self.groups, knees, strict=True)
            if knee > statistics.median(knees)
        )

    def start_ratios(self, tolerance: float = TOLERANCE) -> dict[str, tuple[float, ...]]:
        """Choose the keep-ratios that the search starts each group from.

        They begin at the knee; mutation may still go below it.
        """
        positions = self._knee_positions(tolerance)
        return {
            group: self.ratios[start : start + START_RATIOS]
            for group, start in zip(self.groups, positions, strict=True)
        }

    def _knee_positions(self, tolerance: float) -> list[int]:
        good = self.accuracy >= self.baseline - tolerance / len(self.groups) - _ROUNDING
        good_from_here = good.flip(1).int().cummin(dim=1).values.flip(1)
        return good_from_here.argmax(dim=1).tolist()


def measure_sensitivity(
    scorer: WholeScorer,
    importance: Importance,
    labels: Tensor,
    *,
    ratios: Sequence[float] = RATIOS,
    run: Scorer | None = None,
    progress: Progress = silent,
) -> Sensitivity:
    """Keep only the most important units of one group in all class modules; measure accuracy.

    Args:
        scorer: Scores class modules on the search images.
        importance: Ranks the units of each group, class by class.
        labels: int64[n], classes of the scorer's images.
        ratios: Keep-ratios below 1 to try.
        run: What runs the class modules, see `Engine.spread`; by default ``scorer`` itself.
        progress: Called after every point of a curve.
    """
    channels, run = scorer.channels, run or scorer
    ratios = sorted({r for r in ratios if r < 1})
    classes = torch.arange(len(importance.scores))
    full = torch.ones(len(classes), channels.unit_count, dtype=torch.bool)
    baseline = composed_accuracy(scorer.whole(), labels)
    accuracy = torch.full((len(channels.groups), len(ratios) + 1), baseline)
    for row, group in enumerate(channels.groups):
        for column, ratio in enumerate(ratios):
            keep = keep_most_important(full, channels, importance, group, ratio)
            accuracy[row, column] = composed_accuracy(run(classes, keep), labels)
            done = row * len(ratios) + column + 1
            value = {"accuracy": accuracy[row, column].item()}
            progress(Step("sensitivity", done, len(channels.groups) * len(ratios), value))
    return Sensitivity(tuple(g.name for g in channels.groups), (*ratios, 1.0), accuracy)


def keep_most_important(
    keep: Tensor, channels: ChannelMap, importance: Importance, group: UnitGroup, ratio: float
) -> Tensor:
    """Return ``keep`` bool[classes, units] with only the top ``ratio`` of one group left on."""
    keep, scores = keep.clone(), importance.scores[:, group.units]
    count = max(1, round(ratio * len(group.units)))
    top = torch.zeros_like(scores, dtype=torch.bool)
    top.scatter_(1, scores.argsort(dim=1, descending=True, stable=True)[:, :count], value=True)
    keep[:, group.units] = top
    return channels.fill(keep, importance.scores)
