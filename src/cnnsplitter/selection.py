"""A selection: the units of a network that one class module keeps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.errors import SelectionError


@dataclass(frozen=True, eq=False)
class Selection:
    """The units kept for one class.

    Attributes:
        keep: bool[units], on the CPU.
        fingerprint: Fingerprint of the channel map that numbers the units.
    """

    keep: Tensor
    fingerprint: str

    def __post_init__(self) -> None:
        if self.keep.dtype != torch.bool or self.keep.ndim != 1:
            raise SelectionError(
                f"a selection is bool[units], not {self.keep.dtype} {tuple(self.keep.shape)}"
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Selection)
            and self.fingerprint == other.fingerprint
            and torch.equal(self.keep, other.keep)
        )

    def __hash__(self) -> int:
        return hash((self.fingerprint, self.keep.numpy().tobytes()))

    def __or__(self, other: "Selection") -> "Selection":
        self._require_same_map(other)
        return Selection(self.keep | other.keep, self.fingerprint)

    def __and__(self, other: "Selection") -> "Selection":
        """Return the units kept by both; it may empty a layer, which extraction refuses."""
        self._require_same_map(other)
        return Selection(self.keep & other.keep, self.fingerprint)

    def __le__(self, other: "Selection") -> bool:
        self._require_same_map(other)
        return bool((self.keep <= other.keep).all())

    @property
    def share(self) -> float:
        """Share of the units that is kept, between 0 and 1."""
        return self.keep.float().mean().item()

    def _require_same_map(self, other: "Selection") -> None:
        if (self.fingerprint, len(self.keep)) != (other.fingerprint, len(other.keep)):
            raise SelectionError("the two selections belong to different networks")
