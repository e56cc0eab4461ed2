"""The state of one walk through a graph: channel ids, what ties, writes and reads them.

Every value of the graph carries an *id tensor* of the same rank: which channel an element belongs
to. An axis along which the id does not change has size 1, so that ids broadcast like the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

K = TypeVar("K")

NEUTRAL = 0
"""Id of a constant: it belongs to no channel and ties nothing."""
FROZEN = 1
"""Id of what must always be kept: the image, the outputs, and all that cannot be followed."""


@dataclass(frozen=True, eq=False)
class Freeze:
    """Channels that stay because of one place in the network.

    Attributes:
        reason: Why, in words.
        module: Path of the module where it happens, "" for the network's own forward.
        ids: int64[k], the ids concerned.
    """

    reason: str
    module: str
    ids: Tensor


@dataclass(frozen=True, eq=False)
class SizedAttribute:
    """An attribute of a module in which numbers of channels are written down.

    Attributes:
        module: Path of the module.
        attribute: Name of the attribute.
        parts: The ids that a number counts; for a sequence, those of each entry, or the entry
            itself where it counts no channels.
    """

    module: str
    attribute: str
    parts: Tensor | tuple[Tensor | int, ...]


@dataclass(frozen=True, eq=False)
class ChannelNorm:
    """A norm whose statistics run over channels.

    Attributes:
        module: Path of the module.
        channels: int64[C], ids (in a channel map: units) of the channels.
        axis: Where they lie in the module's input.
    """

    module: str
    channels: Tensor
    axis: int


@dataclass
class Flow:
    """What one walk has found so far.

    Attributes:
        axes: (tensor name, axis) -> id of every index along that axis.
        writers: Module path -> ids of the kernels, in call order.
        rows: Module path -> ids of the rows of a linear layer, in call order.
        readers: Module path -> ids of the input channels that its weight mixes.
        sized: Attributes to be rewritten when channels are cut.
        norms: Norms that need the statistics of the kept channels.
        required: Sets of ids of which at least one must be kept, beside those written and read.
        freezes: What is frozen, where and why.
    """

    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    writers: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    readers: dict[str, Tensor] = field(default_factory=dict)
    sized: dict[tuple[str, str], SizedAttribute] = field(default_factory=dict)
    norms: dict[str, ChannelNorm] = field(default_factory=dict)
    required: list[Tensor] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    edges: list[Tensor] = field(default_factory=list)
    id_count: int = 2

    def fresh(self, count: int) -> Tensor:
        """Return ``count`` new ids, int64[count]."""
        ids = torch.arange(self.id_count, self.id_count + count)
        self.id_count += count
        return ids

    def unite(self, first: Tensor, second: Tensor) -> Tensor:
        """Tie the ids that two tensors align and return the ids of the broadcast result."""
        first, second = torch.broadcast_tensors(first, second)  # type: ignore[no-untyped-call]
        apart = (first != second) & (first != NEUTRAL) & (second != NEUTRAL)
        if apart.any():
            self.edges.append(torch.stack([first[apart], second[apart]]))
        return compress(torch.where(first == NEUTRAL, second, first))

    def record(self, tensor_name: str, axis: int, ids: Tensor) -> None:
        """Note which channel each index of a parameter or buffer belongs to."""
        _note(self, self.axes, (tensor_name, axis), ids)

    def write(self, module: str, ids: Tensor) -> None:
        """Note the kernels of a layer; a layer used twice ties both uses."""
        _note(self, self.writers, module, ids)

    def write_rows(self, module: str, ids: Tensor) -> None:
        """Note the rows of a linear layer."""
        _note(self, self.rows, module, ids)

    def normalise(self, module: str, ids: Tensor, axis: int) -> None:
        """Note a norm over the channels ``ids``, which lie along ``axis`` of its input."""
        self.unite(self.norms.setdefault(module, ChannelNorm(module, ids, axis)).channels, ids)

    def size(self, module: str, attribute: str, parts: Tensor | tuple[Tensor | int, ...]) -> None:
        """Note an attribute that counts channels; where two sets of channels share it, tie them."""
        known = self.sized.setdefault((module, attribute), SizedAttribute(module, attribute, parts))
        for old, new in zip(_id_sets(known.parts), _id_sets(parts), strict=True):
            self.unite(old, new)

    def require(self, ids: Tensor) -> None:
        """Note channels of which at least one must be kept."""
        self.required.append(ids.flatten())

    def read(self, module: str, ids: Tensor) -> None:
        """Note the channels that a layer mixes."""
        _note(self, self.readers, module, ids)

    def freeze(self, ids: Tensor, reason: str, module: str) -> None:
        """Keep the channels ``ids`` in every selection."""
        ids = ids[ids > FROZEN]
        if len(ids):
            self.edges.append(torch.stack([ids, torch.full_like(ids, FROZEN)]))
            self.freezes.append(Freeze(reason, module, ids))

    def tie_rows(self, ids: Tensor) -> None:
        """Tie the channels in each row of ``ids`` [rows, k] to one unit."""
        self.unite(ids[:, :1], ids)


def _note(flow: Flow, table: dict[K, Tensor], key: K, ids: Tensor) -> None:
    if key in table:
        flow.unite(table[key], ids)
    else:
        table[key] = ids


def _id_sets(parts: Tensor | tuple[Tensor | int, ...]) -> list[Tensor]:
    each = parts if isinstance(parts, tuple) else (parts,)
    return [part for part in each if isinstance(part, Tensor) and part.numel()]


def frozen_ids(rank: int) -> Tensor:
    """Return the id tensor of a value whose channels are all frozen."""
    return torch.full((1,) * rank, FROZEN)


def neutral_ids(rank: int) -> Tensor:
    """Return the id tensor of a constant."""
    return torch.full((1,) * rank, NEUTRAL)


def compress(ids: Tensor) -> Tensor:
    """Give every axis along which the ids do not change the size 1."""
    for axis in range(ids.ndim):
        head = ids.narrow(axis, 0, 1)
        if ids.shape[axis] > 1 and bool((ids == head).all()):
            ids = head
    return ids


def varies(ids: Tensor, axes: Sequence[int]) -> bool:
    """Tell whether the ids change along one of ``axes``."""
    return any(ids.shape[axis] > 1 for axis in axes)


def along(ids: Tensor, axis: int, size: int) -> Tensor | None:
    """Return the ids int64[size] along ``axis``, or None if they change along another axis too."""
    others = [a for a in range(ids.ndim) if a != axis % ids.ndim]
    return None if varies(ids, others) else ids.flatten().expand(size)
