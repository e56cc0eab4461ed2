"""Selections that keep the best units within a budget of kernels."""

import torch
from torch import Tensor

from cnnsplitter.search.base import UnitMap


def best_within(channels: UnitMap, priority: Tensor, share: float) -> Tensor:
    """Keep units in falling order of priority until a share of the kernels is reached.

    What a network cannot do without, the best unit of every required set, is kept first, even
    where that alone is more than the share.

    Args:
        channels: The channel map.
        priority: float[..., units].
        share: Of the selectable kernels, in (0, 1].

    Returns:
        bool[..., units].
    """
    nothing = torch.zeros(priority.shape, dtype=torch.bool)
    required = channels.fill(nothing, priority)
    order = priority.masked_fill(required, torch.inf).argsort(dim=-1, descending=True, stable=True)
    kernels = channels.kernels_per_unit
    # A millionth of a kernel, so that rounding of the product costs no unit.
    budget = share * int(kernels.sum()) + 1e-6
    fits = kernels[order].cumsum(dim=-1) <= budget
    return required | nothing.scatter(-1, order, fits)
