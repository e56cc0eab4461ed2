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


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class SizedAttribute:
    """A tuple attribute of a module in which numbers of channels are written down.

    Attributes:
        module: Path of the module.
        attribute: Name of the attribute.
        parts: For each entry the ids it counts, or the number itself where it counts no channels.
    """

    module: str
    attribute: str
    parts: tuple[Tensor | int, ...]


@dataclass
class Flow:
    """What one walk has found so far.

    Attributes:
        axes: (tensor name, axis) -> id of every index along that axis.
        writers: Module path -> ids of the kernels (or rows of a linear layer), in call order.
        readers: Module path -> ids of the input channels that its weight mixes.
        sized: Attributes to be rewritten when channels are cut.
        freezes: What is frozen, where and why.
    """

    axes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    writers: dict[str, Tensor] = field(default_factory=dict)
    readers: dict[str, Tensor] = field(default_factory=dict)
    sized: list[SizedAttribute] = field(default_factory=list)
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

    def read(self, module: str, ids: Tensor) -> None:
        """Note the channels that a layer mixes."""
        _note(self, self.readers, module, ids)

    def freeze(self, ids: Tensor, reason: str, module: str) -> None:
        """Keep the channels ``ids`` in every selection."""
        ids = ids[ids > FROZEN]
        if len(ids):
            self.edges.append(torch.stack([ids, torch.full_like(ids, FROZEN)]))
            self.freezes.append(Freeze(reason, module, ids))

    def tie(self, ids: Tensor) -> None:
        """Tie all channels of ``ids`` to one unit."""
        self.unite(ids.flatten()[:1], ids.flatten())


def _note(flow: Flow, table: dict[K, Tensor], key: K, ids: Tensor) -> None:
    if key in table:
        flow.unite(table[key], ids)
    else:
        table[key] = ids


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
