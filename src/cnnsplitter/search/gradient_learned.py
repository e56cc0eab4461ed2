"""What a gradient search learns, in one tensor."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


def learned_from(logits: Tensor) -> Tensor:
    """Return float32[classes + 1, units + 2], to begin with ``logits`` float32[classes, units].

    The last row is what the classes have in common, and the last columns are the logarithm of the
    scale and the bias of each class's score; all of them start at 0.
    """
    return torch.nn.functional.pad(logits, (0, 2, 0, 1))


@dataclass(frozen=True, eq=False)
class Learned:
    """The parts of what `learned_from` began.

    Attributes:
        logits: float[classes, units], behind the gates.
        log_scale: float[classes].
        bias: float[classes].
    """

    logits: Tensor
    log_scale: Tensor
    bias: Tensor

    @classmethod
    def read(cls, values: Tensor, *, common: bool) -> Self:
        """Take the values apart; with ``common`` the last row's logits add to every class's.

        A class's own logits learn from its own pairs only. The common ones learn from all, which
        is quicker where classes need the same units.
        """
        own = values[:-1]
        logits = own[:, :-2] + values[-1, :-2] if common else own[:, :-2]
        return cls(logits, own[:, -2], own[:, -1])

    def scaled(self, scores: Tensor, owner: Tensor) -> Tensor:
        """Return scores float[...] after the scale and bias of their owners int64[...]."""
        return scores * self.log_scale[owner].exp() + self.bias[owner]
