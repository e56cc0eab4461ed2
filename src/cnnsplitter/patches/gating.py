"""Gates: a class module is run only where the weak model leaves doubt about its class."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.errors import SettingsError, require_known

Doubt = Callable[[Tensor, int | None], Tensor]
"""(weak logits [B, N], column of the class or None) -> doubt [B]: the higher, the more."""


@dataclass(frozen=True)
class Gate:
    """Opens where the weak model's doubt about a class reaches a threshold.

    Attributes:
        doubt: How doubt is measured, one of ``DOUBTS``.
        threshold: The least doubt that opens the gate.
    """

    doubt: str
    threshold: float

    def __post_init__(self) -> None:
        require_known("gate", self.doubt, DOUBTS)
        if not math.isfinite(self.threshold):
            raise SettingsError(f"gate {self.doubt!r}: threshold must be a finite number")

    def opens(self, logits: Tensor, column: int | None) -> Tensor:
        """Return for which images the class module is to be run, bool[B].

        Args:
            logits: The weak model's, float[B, N].
            column: Of the class; None if the weak model lacks it.
        """
        return DOUBTS[self.doubt](logits, column) >= self.threshold


def doubts_for(column: int | None) -> tuple[str, ...]:
    """Return the measures of doubt that there are for a class that the weak model has or lacks."""
    return ("unsure",) if column is None else tuple(DOUBTS)


def _score(logits: Tensor, column: int | None) -> Tensor:
    return logits.log_softmax(dim=1)[:, _known(column)]


def _rank(logits: Tensor, column: int | None) -> Tensor:
    own = logits[:, _known(column)]
    return -(logits > own[:, None]).sum(dim=1).to(logits.dtype)


def _margin(logits: Tensor, column: int | None) -> Tensor:
    here = torch.tensor([_known(column)], device=logits.device)
    rival = logits.index_fill(1, here, -torch.inf).amax(dim=1)
    return -(logits[:, _known(column)] - rival).abs()


def _unsure(logits: Tensor, column: int | None) -> Tensor:
    return -logits.log_softmax(dim=1).amax(dim=1)


def _known(column: int | None) -> int:
    if column is None:
        raise SettingsError(
            "the weak model lacks the class, so that only the gate 'unsure' can serve it"
        )
    return column


DOUBTS: Mapping[str, Doubt] = {
    "score": _score,
    "rank": _rank,
    "margin": _margin,
    "unsure": _unsure,
}
"""``score``: log-probability of the class. ``rank``: minus the number of classes before it.
``margin``: minus the distance between its logit and the best of the others. ``unsure``: minus the
log-probability of the likeliest class."""
