"""One operator call of the graph as handlers see it, and the table of handlers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from cnnsplitter.channels.flow import Flow, frozen_ids, neutral_ids
from cnnsplitter.channels.graph import Node, Stored

Result = Tensor | list[Tensor]
"""Ids of what an operator gives: one tensor, or several."""


@dataclass(frozen=True)
class Call:
    """One operator call of the graph.

    Attributes:
        flow: What the walk has found so far; handlers add to it.
        model: The analysed copy of the network.
        node: The call in the graph.
        entry: Ids of the tensor that entered this module, None if the module is the network.
        args: The arguments by the operator's schema; tensors as ids or as :class:`Stored`.
    """

    flow: Flow
    model: nn.Module
    node: Node
    entry: Tensor | None
    args: dict[str, Any]

    @property
    def module(self) -> str:
        """Path of the innermost module that makes the call."""
        return self.node.module

    @property
    def owner(self) -> nn.Module:
        """The innermost module that makes the call."""
        return self.model.get_submodule(self.module)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.shapes[0]

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of all results."""
        result = self.node.result or []
        return [value.shape for value in (result if isinstance(result, list) else [result])]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first argument."""
        argument = next(iter(self.node.arguments.values()))
        return tuple(argument.shape)

    def ids(self, name: str | None = None) -> Tensor:
        """Ids of a tensor argument, by default of the first.

        A parameter or buffer with one long axis gets ids of its own.
        """
        value = self.args[name] if name else next(iter(self.args.values()))
        return value if isinstance(value, Tensor) else self.as_ids(value)

    def as_ids(self, value: Any) -> Tensor:
        """Ids of a value; numbers and constants are neutral."""
        if isinstance(value, Tensor):
            return value
        return self._stored_ids(value) if isinstance(value, Stored) else neutral_ids(0)

    def own_layer(self, kind: type[nn.Module]) -> str | None:
        """Return the path of the module whose weight this call uses, if hooks reach its input."""
        weight, owner = self.args["weight"], self.owner
        owns = isinstance(weight, Stored) and getattr(owner, "weight", None) is weight.tensor
        return self.module if owns and isinstance(owner, kind) else None

    def heal(self, size: int, ids: Tensor) -> bool:
        """Note that attributes of the owner with the value ``size`` count the channels ``ids``."""
        if type(self.owner).__module__.startswith("torch.nn."):
            return False
        names = [n for n, v in vars(self.owner).items() if type(v) is int and v == size]
        for name in names:
            self.flow.size(self.module, name, ids)
        return bool(names)

    def heal_tuple(self, sizes: tuple[int, ...], parts: list[Tensor]) -> bool:
        """Note that sequences of the owner with these values count the channels of ``parts``."""
        values = {n: v for n, v in vars(self.owner).items() if isinstance(v, list | tuple)}
        names = [name for name, value in values.items() if tuple(value) == sizes]
        for name in names:
            self.flow.size(self.module, name, tuple(parts))
        return bool(names)

    def freeze_inputs(self, reason: str) -> Result:
        """Freeze every channel that reaches this call; the result is frozen, too."""
        for value in self.args.values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, Tensor | Stored):
                    self.flow.freeze(self.as_ids(part), reason, self.module)
        return self.frozen_result()

    def frozen_result(self) -> Result:
        """Return frozen ids for the result, or a list of them where the operator gives several."""
        ids = [frozen_ids(len(shape)) for shape in self.shapes]
        return ids if isinstance(self.node.result, list) else ids[0]

    def _stored_ids(self, stored: Stored) -> Tensor:
        shape = stored.tensor.shape
        long_axes = [axis for axis, size in enumerate(shape) if size > 1]
        if len(long_axes) != 1:
            # What else uses it must not cut it.
            for axis in long_axes:
                self.flow.record(stored.name, axis, frozen_ids(1).expand(shape[axis]))
            return neutral_ids(len(shape)) if not long_axes else frozen_ids(len(shape))
        axis = long_axes[0]
        known = self.flow.axes.get((stored.name, axis))
        if known is None:
            known = self.flow.fresh(shape[axis])
            self.flow.record(stored.name, axis, known)
        return known.view([-1 if a == axis else 1 for a in range(len(shape))])


Handler = Callable[[Call], Result]
HANDLERS: dict[str, Handler] = {}


def handles(*operators: str) -> Callable[[Handler], Handler]:
    """Register a handler for ATen operators such as ``"conv2d"`` (all overloads)."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operators, handler))
        return handler

    return register
