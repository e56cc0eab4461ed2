"""Selections of the best units that a budget has room for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cnnsplitter.errors import SettingsError
from cnnsplitter.search.base import SearchProblem, UnitMap

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
    def of(cls, problem: SearchProblem, target: Target) -> "Budget":
        """Return the budget that counts kernels, or multiply-adds.

        Raises:
            SettingsError: The problem has no masked scorer, which knows the multiply-adds.
        """
        if target == "kernels":
            return cls.of_kernels(problem.channels)
        if problem.masked is None:
            raise SettingsError(
                "a target in multiply-adds needs the network: give the problem a masked scorer"
            )
        return cls(problem.channels, problem.masked.multiply_adds)

    @classmethod
    def of_kernels(cls, channels: UnitMap) -> "Budget":
        """Return the budget that counts kernels."""
        kernels = channels.kernels_per_unit.double()
        return cls(channels, lambda masks: masks.double() @ kernels)

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

    def best(self, worth: Tensor, share: float) -> Tensor:
        """Keep units in falling order of their worth as long as the cost is within the share.

        The best unit of every set that a network cannot do without is kept even where that alone
        costs more.

        Args:
            worth: float[classes, units], such as importance or logits.
            share: Of the cost of the whole network.

        Returns:
            bool[classes, units].
        """
        required = self.channels.fill(torch.zeros(worth.shape, dtype=torch.bool), worth)
        order = worth.argsort(dim=1, descending=True, stable=True)
        rank = order.argsort(dim=1)
        least = torch.zeros(len(worth), dtype=torch.int64)
        most = torch.full_like(least, worth.shape[1])
        # A hair more than the share, so that rounding costs no unit.
        limit = share * (1 + 1e-9)
        while bool((least < most).any()):
            middle = (least + most + 1) // 2
            fits = self.share(required | (rank < middle[:, None])) <= limit
            least, most = torch.where(fits, middle, least), torch.where(fits, most, middle - 1)
        return required | (rank < least[:, None])
