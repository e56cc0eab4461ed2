"""What a gradient search learns, in one tensor."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


def learned_from(logits: Tensor) -> Tensor:
    """Return float32[classes, units + 2], to begin with ``logits`` float32[classes, units].

    The last columns are the logarithm of the scale and the bias of each class's score, which start
    at 0.
    """
    return torch.nn.functional.pad(logits, (0, 2))


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
    def read(cls, values: Tensor) -> Self:
        """Take the values apart."""
        return cls(values[:, :-2], values[:, -2], values[:, -1])

    def scaled(self, scores: Tensor, owner: Tensor) -> Tensor:
        """Return scores float[...] after the scale and bias of their owners int64[...]."""
        return scores * self.log_scale[owner].exp() + self.bias[owner]
