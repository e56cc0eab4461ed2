"""One walk through a network's graph: export it, follow the channel ids, number the units."""

import copy
import operator
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import ExportGraphSignature

from cnnsplitter.channels import elementwise, layers, shapes  # noqa: F401  # they register handlers
from cnnsplitter.channels.calls import HANDLERS, Call, Handler, Stored
from cnnsplitter.channels.flow import FROZEN, Flow, frozen_ids
from cnnsplitter.errors import ModelError, UnsupportedModelError


def walk(
    model: nn.Module,
    example: Tensor,
    *,
    freeze_unknown: bool = False,
    frozen_modules: Collection[str] = (),
) -> Flow:
    """Follow the channels of ``model`` through its graph.

    The analysis runs on a copy without data (meta device): the user's network is not touched.

    Args:
        model: The network.
        example: float[B, C, H, W]; only its shape and type matter.
        freeze_unknown: Whether an operator that is not on the white list freezes what reaches it.
        frozen_modules: Paths of modules whose inputs and outputs are to be frozen.

    Raises:
        UnsupportedModelError: For control flow that depends on data, and for an operator that is
            not on the white list unless ``freeze_unknown``.
        ModelError: If the network does not take the example input.
    """
    shadow = _shadow(model)
    graph, signature = _export(shadow, example)
    stored = _stored_tensors(shadow, signature)
    state = _Walk(shadow, freeze_unknown, frozenset(frozen_modules))
    for node in graph.nodes:
        if node.op == "placeholder":
            state.values[node] = stored.get(node.name, frozen_ids(example.ndim))
        elif node.target is operator.getitem:
            state.values[node] = state.values[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            state.values[node] = state.call(node)
        elif node.op == "output":
            for result in node.all_input_nodes:
                state.freeze(state.values[result], "output of the network", "")
    return state.flow


@dataclass
class _Walk:
    shadow: nn.Module
    freeze_unknown: bool
    frozen_modules: frozenset[str]
    flow: Flow = field(default_factory=Flow)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    entries: dict[str, Tensor] = field(default_factory=dict)

    def call(self, node: fx.Node) -> Any:
        """Return the ids of a call's result."""
        if node.meta.get("val") is None:
            return None
        module = _module_path(node)
        arguments = self._arguments(node)
        first = next((a for a in arguments.values() if isinstance(a, Tensor)), None)
        if first is not None:
            self.entries.setdefault(module, first)
        call = Call(self.flow, self.shadow, node, module, self.entries.get(module), arguments)
        handler = _handler_for(node)
        if handler is None:
            return self._unknown(call)
        result = handler(call)
        if self._is_frozen(module):
            for value in (*arguments.values(), result):
                self.freeze(value, "a number of channels is written into the forward", module)
        return result

    def freeze(self, value: Any, reason: str, module: str) -> None:
        """Freeze all ids in a value."""
        for part in value if isinstance(value, list | tuple) else [value]:
            if isinstance(part, Tensor):
                self.flow.freeze(part, reason, module)

    def _is_frozen(self, module: str) -> bool:
        return any(module == p or module.startswith(f"{p}.") for p in self.frozen_modules)

    def _unknown(self, call: Call) -> Any:
        name = f"operator {call.node.target}"
        if self.freeze_unknown:
            return call.freeze_inputs(f"{name} ({_source_line(call.node)}) is unknown")
        place = f"module {call.module!r}" if call.module else "the network's own forward"
        raise UnsupportedModelError(
            f"{name} in {place} ({_source_line(call.node)}) is unknown; "
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


def _shadow(model: nn.Module) -> nn.Module:
    """Copy the network to the meta device, in evaluation mode but for the root's flag.

    The root's flag stays on so that auxiliary heads are part of the graph.
    """
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    shadow = copy.deepcopy(model, memo).eval()
    shadow.training = True
    return shadow


def _export(shadow: nn.Module, example: Tensor) -> tuple[fx.Graph, ExportGraphSignature]:
    shape = (max(2, len(example)), *example.shape[1:])
    example = torch.empty(shape, dtype=example.dtype, device="meta")
    try:
        program = torch.export.export(shadow, (example,), strict=False)
    except Exception as error:  # torch.export raises many types, its own and those of the network
        kind = UnsupportedModelError if "Guard" in type(error).__name__ else ModelError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise kind(
            f"{type(shadow).__name__} cannot be traced with an input of shape {shape}: {reason}"
        ) from error
    return program.graph, program.graph_signature


def _stored_tensors(shadow: nn.Module, signature: ExportGraphSignature) -> dict[str, Stored]:
    tensors: dict[str, Tensor] = dict(shadow.named_parameters(remove_duplicate=False))
    tensors |= dict(shadow.named_buffers(remove_duplicate=False))
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    constants = signature.inputs_to_lifted_tensor_constants
    return {node: Stored(name, tensors[name]) for node, name in names.items()} | {
        node: Stored(name, torch.empty(0)) for node, name in constants.items()
    }


def _handler_for(node: fx.Node) -> Handler | None:
    """Return the handler of a call, or None for an operator that is not on the white list."""
    target: Any = node.target
    # In-place variants act like the plain ones but do not always carry their tags.
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    if name in HANDLERS:
        return HANDLERS[name]
    return elementwise.pointwise if elementwise.is_pointwise(name, target.tags) else None


def _module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that makes the call."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return re.sub(r"@\d+", "", stack[-1][0]) if stack else ""


def _source_line(node: fx.Node) -> str:
    """Return the line of the user's code that makes the call."""
    lines = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    return f"{lines[-1][0]}:{lines[-1][1]}" if lines else "source unknown"
