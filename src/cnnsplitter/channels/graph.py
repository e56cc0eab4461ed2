"""A network's graph of operator calls, each with the module that makes it."""

import re
import warnings
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from cnnsplitter.channels.calls import Stored
from cnnsplitter.channels.refusals import refusal
from cnnsplitter.channels.shadow import without_data
from cnnsplitter.nets import require_one_input

MODULE = "module"
"""Key of a node's ``meta`` under which the path of the innermost module stands."""


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of one run on a batch of images.

    Attributes:
        shadow: Copy of the network without data.
        image: Input of the run, without data.
        nodes: The calls in order, of ATen operators as the network makes them (not decomposed).
        stored: Parameters and buffers by the names of the nodes that stand for them.
    """

    shadow: nn.Module
    image: Tensor
    nodes: tuple[fx.Node, ...]
    stored: Mapping[str, Stored]

    def source_line(self, node: fx.Node) -> str:
        """Return the line of the user's code that makes the call."""
        nodes = _record(self.shadow, self.image, lines=True).graph.nodes
        trace = list(nodes)[self.nodes.index(node)].stack_trace or ""
        torch_folder = str(Path(torch.__file__).parent)
        lines = re.findall(r'File "([^"]+)", line (\d+)', trace)
        own = [line for line in lines if not line[0].startswith(torch_folder)]
        return f"{own[-1][0]}:{own[-1][1]}" if own else "source unknown"


def record_graph(model: nn.Module, example: Tensor) -> Graph:
    """Return the graph of ``model`` on ``example`` float[B, C, H, W].

    Only the example's shape and type matter. A copy without data (meta device) runs: the user's
    network is not touched. ``torch.export`` gives the same graph in more than twice the time.

    Raises:
        UnsupportedModelError: For control flow that depends on data, for several inputs, and for
            a network that cannot be copied.
        ModelError: If the network does not take the example input.
    """
    require_one_input(model)
    shadow = without_data(model)
    # The root's flag is on so that auxiliary heads are part of the graph.
    shadow.training = True
    shape = (max(2, len(example)), *example.shape[1:])
    image = torch.empty(shape, dtype=example.dtype, device="meta")
    try:
        # Warnings and prints are about a copy that nobody will run.
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            nodes = tuple(_record(shadow, image).graph.nodes)
    except Exception as error:  # tracing raises many types, its own and those of the network
        raise refusal(shadow, shape, error) from error
    tensors = _tensors(shadow)
    inputs = [node.name for node in nodes if node.op == "placeholder"]
    stored = {name: Stored(*item) for name, item in zip(inputs, tensors.items(), strict=False)}
    constants = {n.name: Stored(n.name, torch.empty(0)) for n in nodes if n.op == "get_attr"}
    return Graph(shadow, image, nodes, stored | constants)


def _tensors(net: nn.Module) -> dict[str, Tensor]:
    return dict(net.named_parameters()) | dict(net.named_buffers())


@torch.no_grad()
def _record(shadow: nn.Module, image: Tensor, *, lines: bool = False) -> fx.GraphModule:
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(tensors: dict[str, Tensor], image: Tensor) -> Any:
        with _Tagging(shadow) as tagging:
            outputs = functional_call(shadow, tensors, (image,))
            tagging.tag()
            return outputs

    record = make_fx(
        run,
        tracing_mode="fake",
        pre_dispatch=True,
        record_stack_traces=lines,
        _allow_non_fake_inputs=True,
    )
    return record(_tensors(shadow), image)


class _Tagging:
    """Writes into every new node of the graph which module is running."""

    def __init__(self, net: nn.Module) -> None:
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        self.graph = get_proxy_mode().tracer.graph  # type: ignore[union-attr]
        self.running = [""]
        self.net = net
        self.handles: list[Any] = []

    def __enter__(self) -> "_Tagging":
        for name, module in self.net.named_modules():
            if name:
                enter = module.register_forward_pre_hook(lambda *_, name=name: self.enter(name))
                leave = module.register_forward_hook(lambda *_: self.leave())
                self.handles += [enter, leave]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def enter(self, path: str) -> None:
        self.tag()
        self.running.append(path)

    def leave(self) -> None:
        self.tag()
        self.running.pop()

    def tag(self) -> None:
        for node in reversed(self.graph.nodes):
            if MODULE in node.meta:
                break
            node.meta[MODULE] = self.running[-1]
