"""Selections of the units with the highest logits that a budget has room for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cnnsplitter.search.base import MaskedScorer, SearchProblem, UnitMap

Target = Literal["kernels", "multiply-adds"]


@dataclass(frozen=True, eq=False)
class Budget:
    """What selections cost, as shares of what the whole network costs.

    Attributes:
        channels: The channel map.
        cost: (masks [..., units]) -> float64[...], with a gradient.
    """

    channels: UnitMap
    cost: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, problem: SearchProblem, masked: MaskedScorer, target: Target) -> "Budget":
        """Return the budget that counts kernels, or multiply-adds."""
        if target == "multiply-adds":
            return cls(problem.channels, masked.multiply_adds)
        kernels = problem.channels.kernels_per_unit.double()
        return cls(problem.channels, lambda masks: masks.double() @ kernels)

    @property
    def _whole(self) -> Tensor:
        return torch.ones(self.channels.unit_count)

    def share(self, masks: Tensor) -> Tensor:
        """Return what masks [..., units] cost, float64[...] between 0 and 1."""
        return self.cost(masks) / self.cost(self._whole)

    def prices(self) -> Tensor:
        """Return float64[units], how fast the cost grows with each unit of the whole network."""
        whole = self._whole.double().requires_grad_()
        with torch.enable_grad():
            (prices,) = torch.autograd.grad(self.cost(whole), whole)
        return prices

    def best(self, logits: Tensor, share: float) -> Tensor:
        """Keep units in falling order of their logits as long as the cost is within the share.

        The best unit of every set that a network cannot do without is kept even where that alone
        costs more.

        Args:
            logits: float[classes, units].
            share: Of the cost of the whole network.

        Returns:
            bool[classes, units].
        """
        required = self.channels.fill(torch.zeros(logits.shape, dtype=torch.bool), logits)
        order = logits.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        least = torch.zeros(len(logits), dtype=torch.int64)
        most = torch.full_like(least, logits.shape[1])
        # A hair more than the share, so that rounding costs no unit.
        limit = share * (1 + 1e-9)
        while bool((least < most).any()):
            middle = (least + most + 1) // 2
            fits = self.share(required | (rank < middle[:, None])) <= limit
            least, most = torch.where(fits, middle, least), torch.where(fits, most, middle - 1)
        return required | (rank < least[:, None])
