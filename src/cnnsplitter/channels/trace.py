"""One walk through a network's graph: follow the channel ids, number the units."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

# These register handlers.
from cnnsplitter.channels import elementwise, layers, parts, reductions, shapes  # noqa: F401
from cnnsplitter.channels.calls import HANDLERS, Call, Handler
from cnnsplitter.channels.flow import FROZEN, Flow, frozen_ids, neutral_ids
from cnnsplitter.channels.graph import Graph, Node, Value
from cnnsplitter.errors import UnsupportedModelError


def walk(
    graph: Graph,
    *,
    freeze_unknown: bool = False,
    frozen_modules: Mapping[str, str] = MappingProxyType({}),
) -> Flow:
    """Follow the channels through a network's graph.

    Args:
        graph: The graph.
        freeze_unknown: Whether an operator that is not on the white list freezes what reaches it.
        frozen_modules: Paths of modules whose inputs and outputs are to be frozen, and the reason.

    Raises:
        UnsupportedModelError: For an operator that is not on the white list unless
            ``freeze_unknown``.
    """
    state = _Walk(graph, freeze_unknown, frozen_modules)
    state.values[graph.image] = frozen_ids(len(graph.image.shape))
    state.values |= {constant: neutral_ids(len(constant.shape)) for constant in graph.constants}
    for node in graph.nodes:
        state.run(node)
    for output in graph.outputs:
        state.freeze(state.values[output], "output of the network", "")
    return state.flow


@dataclass
class _Walk:
    graph: Graph
    freeze_unknown: bool
    frozen_modules: Mapping[str, str]
    flow: Flow = field(default_factory=Flow)
    values: dict[Value, Tensor] = field(default_factory=dict)
    entries: dict[str, Tensor] = field(default_factory=dict)

    def run(self, node: Node) -> None:
        """Note the ids of what a call gives."""
        if isinstance(node.result, list):
            self.values.update(zip(node.result, self._call(node), strict=True))
        elif node.result is not None:
            self.values[node.result] = self._call(node)

    def _call(self, node: Node) -> Any:
        arguments = tree_map_only(Value, self.values.__getitem__, dict(node.arguments))
        first = next((a for a in arguments.values() if isinstance(a, Tensor)), None)
        if first is not None:
            self.entries.setdefault(node.module, first)
        call = Call(self.flow, self.graph.shadow, node, self.entries.get(node.module), arguments)
        handler = _handler_for(node)
        if handler is None:
            return self._unknown(call)
        result = handler(call)
        for path, reason in self.frozen_modules.items():
            if node.module == path or node.module.startswith(f"{path}."):
                self.freeze([*arguments.values(), result], reason, node.module)
        return result

    def freeze(self, value: Any, reason: str, module: str) -> None:
        """Freeze all ids in a value."""
        for part in tree_leaves(value):
            if isinstance(part, Tensor):
                self.flow.freeze(part, reason, module)

    def _unknown(self, call: Call) -> Any:
        name = f"operator {call.node.operator}"
        if self.freeze_unknown:
            return call.freeze_inputs(f"{name} ({call.node.line}) is unknown")
        place = f"module {call.module!r}" if call.module else "the network's own forward"
        raise UnsupportedModelError(
            f"{name} in {place} ({call.node.line}) is unknown; "
            "freeze the channels that reach it by --freeze-unknown or unknown='freeze'"
        )


def number_units(flow: Flow, *, linear_units: bool) -> Tensor:
    """Return the unit of every id, int64[ids]; -1 where it is always kept.

    A unit has a kernel (or, with ``linear_units``, a row of a linear layer), something reads it,
    and nothing frozen is tied to it.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = torch.cat([torch.empty(2, 0, dtype=torch.int64), *flow.edges], dim=1).numpy()
    shape = (flow.id_count, flow.id_count)
    graph = coo_array((torch.ones(edges.shape[1]).numpy(), (edges[0], edges[1])), shape=shape)
    component = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    written = [*flow.writers.values(), *(flow.rows.values() if linear_units else ())]
    selectable = _members(component, written) & _members(component, flow.readers.values())
    selectable[component[FROZEN]] = False
    numbers = torch.where(selectable, selectable.cumsum(0) - 1, -1)
    return numbers[component]


def _members(component: Tensor, id_sets: Iterable[Tensor]) -> Tensor:
    found = torch.zeros(int(component.max()) + 1, dtype=torch.bool)
    for ids in id_sets:
        found[component[ids]] = True
    return found


def _handler_for(node: Node) -> Handler | None:
    """Return the handler of a call, or None for an operator that is not on the white list."""
    # In-place variants act like the plain ones but do not always carry their tags.
    name = node.name.removesuffix("_")
    if name in HANDLERS:
        return HANDLERS[name]
    return elementwise.pointwise if elementwise.is_pointwise(name, node.operator.tags) else None
