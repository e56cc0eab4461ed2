"""From a network to its channel map: export the graph, walk it once, number the units."""

import copy
import operator
import re
from typing import Any

import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.export.graph_signature import ExportGraphSignature

from cnnsplitter.channels.flow import FROZEN, Flow, frozen_ids
from cnnsplitter.channels.operators import Call, Stored, handler_for
from cnnsplitter.errors import ModelError, UnsupportedModelError


def walk(model: nn.Module, example: Tensor, *, linear_units: bool, freeze_unknown: bool) -> Flow:
    """Follow the channels of ``model`` through its graph.

    The analysis runs on a copy without data (meta device): the user's network is not touched.

    Raises:
        UnsupportedModelError: For control flow that depends on data, and for an operator that is
            not on the white list unless ``freeze_unknown``.
        ModelError: If the network does not take the example input.
    """
    shadow = _shadow(model)
    graph, signature = _export(shadow, example)
    flow = Flow()
    stored = _stored_tensors(shadow, signature)
    values: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = stored.get(node.name, frozen_ids(example.ndim))
        elif node.target is operator.getitem:
            values[node] = values[node.args[0]][node.args[1]]
        elif node.op == "call_function":
            values[node] = _call(flow, shadow, node, values, linear_units, freeze_unknown)
        elif node.op == "output":
            for result in node.all_input_nodes:
                if isinstance(values[result], Tensor):
                    flow.freeze(values[result], "output of the network", "")
    return flow


def number_units(flow: Flow) -> Tensor:
    """Return the unit of every id, int64[ids]; -1 where the id is frozen or no kernel writes it."""
    edges = torch.cat([torch.empty(2, 0, dtype=torch.int64), *flow.edges], dim=1).numpy()
    shape = (flow.id_count, flow.id_count)
    graph = coo_array((torch.ones(edges.shape[1]).numpy(), (edges[0], edges[1])), shape=shape)
    component = torch.from_numpy(connected_components(graph, directed=False)[1]).long()
    selectable = _members(component, flow.writers.values()) & _members(
        component, flow.readers.values()
    )
    selectable[component[FROZEN]] = False
    numbers = torch.where(selectable, selectable.cumsum(0) - 1, -1)
    return numbers[component]


def _members(component: Tensor, id_sets: Any) -> Tensor:
    found = torch.zeros(int(component.max()) + 1, dtype=torch.bool)
    for ids in id_sets:
        found[component[ids]] = True
    return found


def _shadow(model: nn.Module) -> nn.Module:
    """Copy the network to the meta device, in evaluation mode but for the root's flag.

    The root's flag stays on so that auxiliary heads are part of the graph (channel trial, 5).
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
    example = torch.empty(
        (max(2, len(example)), *example.shape[1:]), dtype=example.dtype, device="meta"
    )
    try:
        program = torch.export.export(shadow, (example,), strict=False)
    except Exception as error:  # torch.export raises many types, its own and those of the network
        kind = UnsupportedModelError if "Guard" in type(error).__name__ else ModelError
        raise kind(
            f"{type(shadow).__name__} cannot be traced with an input of shape "
            f"{tuple(example.shape)}: {str(error).strip().splitlines()[0]}"
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


def _call(
    flow: Flow,
    shadow: nn.Module,
    node: fx.Node,
    values: dict[fx.Node, Any],
    linear_units: bool,
    freeze_unknown: bool,
) -> Any:
    module = _module_path(node)
    arguments = _arguments(node, values)
    call = Call(flow, shadow, node, module, linear_units, arguments)
    handler = handler_for(node)
    if handler is not None:
        return handler(call)
    if not freeze_unknown:
        raise UnsupportedModelError(
            f"operator {node.target} in module {module or type(shadow).__name__!r} is unknown; "
            'pass unknown="freeze" to keep the channels that reach it'
        )
    return call.freeze_inputs(f"operator {node.target} is unknown")


def _module_path(node: fx.Node) -> str:
    """Return the path of the innermost module that makes the call."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return re.sub(r"@\d+", "", stack[-1][0]) if stack else ""


def _arguments(node: fx.Node, values: dict[fx.Node, Any]) -> dict[str, Any]:
    """Name the call's arguments by the operator's schema and replace nodes by what they carry."""
    target: Any = node.target
    arguments = {}
    for position, argument in enumerate(target._schema.arguments):
        if position < len(node.args):
            value = node.args[position]
        else:
            value = node.kwargs.get(argument.name, argument.default_value)
        arguments[argument.name] = fx.node.map_arg(value, lambda n: values[n])
    return arguments
