"""Gates: masks of 0 and 1 that gradients flow through to the logits behind them."""

from typing import Literal

import torch
from torch import Generator, Tensor

Gate = Literal["straight-through", "sigmoid", "hard-concrete"]

_LOW, _HIGH = -0.1, 1.1
"""Ends of the stretched interval (Louizos et al., Learning Sparse Neural Networks through L0
Regularization, section 2.2); what lies outside [0, 1] is cut off, so that whole 0 and 1 occur."""


def open_gates(
    kind: Gate, logits: Tensor, keep: Tensor, *, heat: float, generator: Generator
) -> Tensor:
    """Return masks float[classes, units] with a gradient to the logits.

    Args:
        kind: ``"straight-through"`` masks are the selection itself and hand their gradient on
            unchanged; ``"sigmoid"`` ones lie between 0 and 1; ``"hard-concrete"`` ones are drawn
            around it.
        logits: float[classes, units].
        keep: bool[classes, units], the units of highest logits that the budget has room for.
        heat: Temperature of the other two; towards 0 they become ``keep``.
        generator: Source of the hard-concrete noise.
    """
    if kind == "straight-through":
        return keep.to(logits.dtype) + logits - logits.detach()
    distance = (logits - _threshold(logits.detach(), keep)) / heat
    if kind == "sigmoid":
        return distance.sigmoid()
    uniform = torch.rand(logits.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    soft = torch.sigmoid(distance + uniform.logit())
    return (soft * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _threshold(logits: Tensor, keep: Tensor) -> Tensor:
    """Return float[classes, 1], a value between the kept logits and the others."""
    kept = logits.masked_fill(~keep, torch.inf).amin(dim=1, keepdim=True)
    dropped = logits.masked_fill(keep, -torch.inf).amax(dim=1, keepdim=True)
    between = (kept + dropped) / 2
    return torch.where(between.isfinite(), between, logits.amin(dim=1, keepdim=True) - 1)
