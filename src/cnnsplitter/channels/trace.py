"""One walk through a network's graph: follow the channel ids, number the units."""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

# These register handlers.
from cnnsplitter.channels import elementwise, layers, parts, reductions, shapes  # noqa: F401
from cnnsplitter.channels.calls import HANDLERS, Call, Handler
from cnnsplitter.channels.flow import FROZEN, Flow, frozen_ids
from cnnsplitter.channels.graph import MODULE, Graph
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
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr"):
            state.values[node] = graph.stored.get(node.name, frozen_ids(graph.image.ndim))
        elif node.target is operator.getitem:
            whole, index = node.args
            state.values[node] = state.values[whole][index]  # type: ignore[index]
        elif node.op == "call_function":
            state.values[node] = state.call(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                state.freeze(state.values[result], "output of the network", "")
    return state.flow


@dataclass
class _Walk:
    graph: Graph
    freeze_unknown: bool
    frozen_modules: Mapping[str, str]
    flow: Flow = field(default_factory=Flow)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    entries: dict[str, Tensor] = field(default_factory=dict)

    def call(self, node: fx.Node) -> Any:
        """Return the ids of a call's result."""
        if node.meta.get("val") is None:
            return None
        module = node.meta[MODULE]
        arguments = self._arguments(node)
        first = next((a for a in arguments.values() if isinstance(a, Tensor)), None)
        if first is not None:
            self.entries.setdefault(module, first)
        call = Call(self.flow, self.graph.shadow, node, module, self.entries.get(module), arguments)
        handler = _handler_for(node)
        if handler is None:
            return self._unknown(call)
        result = handler(call)
        for path, reason in self.frozen_modules.items():
            if module == path or module.startswith(f"{path}."):
                self.freeze([*arguments.values(), result], reason, module)
        return result

    def freeze(self, value: Any, reason: str, module: str) -> None:
        """Freeze all ids in a value."""
        for part in tree_leaves(value):
            if isinstance(part, Tensor):
                self.flow.freeze(part, reason, module)

    def _unknown(self, call: Call) -> Any:
        name = f"operator {call.node.target}"
        if self.freeze_unknown:
            return call.freeze_inputs(f"{name} ({self.graph.source_line(call.node)}) is unknown")
        place = f"module {call.module!r}" if call.module else "the network's own forward"
        raise UnsupportedModelError(
            f"{name} in {place} ({self.graph.source_line(call.node)}) is unknown; "
            "freeze the channels that reach it by --freeze-unknown or unknown='freeze'"
        )

    def _arguments(self, node: fx.Node) -> dict[str, Any]:
        """Name the call's arguments by the operator's schema; put what nodes carry for nodes."""
        target: Any = node.target
        arguments = {}
        for position, argument in enumerate(target._schema.arguments):
            if position < len(node.args):
                value = node.args[position]
            else:
                value = node.kwargs.get(argument.name, argument.default_value)
            arguments[argument.name] = fx.node.map_arg(value, lambda n: self.values[n])
        return arguments


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


def _handler_for(node: fx.Node) -> Handler | None:
    """Return the handler of a call, or None for an operator that is not on the white list."""
    target: Any = node.target
    # In-place variants act like the plain ones but do not always carry their tags.
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    if name in HANDLERS:
        return HANDLERS[name]
    return elementwise.pointwise if elementwise.is_pointwise(name, target.tags) else None
