"""Importance thresholding: the cheap baseline that keeps each class's most important units."""

from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor

from cnnsplitter.search.base import SearchProblem
from cnnsplitter.search.budget import Budget
from cnnsplitter.search.tries import BestOfTries


class ThresholdSearch(BestOfTries):
    """Keep the most important units within a budget, of all layers together.

    The first try takes the importance as it is, in which chance has no part. Further tries give
    whole layers more or less weight, the same for all classes, and the most accurate one counts.

    Attributes:
        scale: How importance is made comparable between layers: divided by the layer's mean or
            highest, or replaced by the rank in the layer, so that all layers keep equal shares.
        spread: Standard deviation of the logarithm of the weights of layers.

    Example:
        >>> ThresholdSearch(keep=0.4).scale
        'mean'
    """

    scale: Literal["mean", "max", "rank"] = "mean"
    spread: float = Field(default=0.3, ge=0, allow_inf_nan=False)

    def draw(self, problem: SearchProblem, number: int, generator: Generator) -> Tensor:
        """Rank all units and keep the best.

        Args:
            problem: What to search.
            number: Number of the try; the first is not random.
            generator: Source of randomness.

        Returns:
            bool[classes, units].
        """
        groups = problem.channels.groups
        noise = torch.randn(len(groups), generator=generator) * (self.spread if number else 0)
        priority = torch.empty(problem.importance.shape)
        for group, weight in zip(groups, noise.exp().tolist(), strict=True):
            part = problem.importance[:, group.units]
            priority[:, group.units] = weight * self._scaled(part)
        return Budget.of(problem, self.target).best(priority, self.keep)

    def _scaled(self, part: Tensor) -> Tensor:
        """Scale the importance float[classes, k] of one layer."""
        if self.scale == "rank":
            place = part.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            return 1 - place / part.shape[1]
        whole = part.mean(1, keepdim=True) if self.scale == "mean" else part.amax(1, keepdim=True)
        return part / whole.clamp(min=torch.finfo(part.dtype).tiny)
