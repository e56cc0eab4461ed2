"""A network's graph of operator calls, each with the module that makes it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from cnnsplitter.authorship import author_line
from cnnsplitter.channels.refusals import refusal
from cnnsplitter.channels.shadow import RUN_ERRORS, ShapeMode, run_shapes, without_data
from cnnsplitter.channels.tracking import Tracker, tracked
from cnnsplitter.nets import require_one_input

_SMALL = 96


@dataclass(frozen=True)
class Value:
    """A tensor of the run: its number in order of time, and its shape."""

    number: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of the network as an argument of an operator."""

    name: str
    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(self.tensor.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One operator call.

    Attributes:
        operator: The ATen operator, as the network calls it (not decomposed).
        arguments: By the operator's schema; tensors as :class:`Value` or :class:`Stored`.
        result: What it gives: one tensor, several, or none.
        module: Path of the innermost module that makes the call.
        line: File and line of the network's code that makes the call.
    """

    operator: Any
    arguments: Mapping[str, Any]
    result: Value | list[Value] | None
    module: str
    line: str

    @property
    def name(self) -> str:
        """Name of the operator without its library and overload."""
        return str(self.operator._schema.name).removeprefix("aten::")


@dataclass(frozen=True, eq=False)
class Graph:
    """The calls of one run on a batch of images.

    Attributes:
        shadow: Copy of the network without data, in evaluation mode.
        image: Input of the run.
        constants: Tensors of the run that no operator gave.
        nodes: The calls in order.
        outputs: What the network gives.
    """

    shadow: nn.Module
    image: Value
    constants: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]

    def small_image(self) -> tuple[int, ...]:
        """Return a shape of images that meet the same channels as those recorded, on fewer pixels.

        It is that of the recorded ones unless a smaller one leads to outputs of the same shapes.
        """
        whole = self.image.shape
        small = (*whole[:2], *(min(size, _SMALL) for size in whole[2:]))
        try:
            outputs = tree_leaves(run_shapes(self.shadow, small))
        except RUN_ERRORS:
            return whole
        shapes = {tuple(output.shape) for output in outputs if isinstance(output, Tensor)}
        return small if shapes <= {output.shape for output in self.outputs} else whole


def record_graph(model: nn.Module, example: Tensor) -> Graph:
    """Return the graph of ``model`` on ``example`` float[B, C, H, W].

    Only the example's shape and type matter. A copy without data (meta device) runs: the user's
    network is not touched. ``torch.export`` and ``make_fx`` give the same graph, but take up to
    fifty times as long.

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
            return _record(shadow, image)
    except Exception as error:  # tracing raises many types, its own and those of the network
        raise refusal(shadow, shape, error) from error


def _record(shadow: nn.Module, image: Tensor) -> Graph:
    with torch.inference_mode(), tracked(shadow) as tracker, _Recorder(shadow, tracker) as recorder:
        start = recorder.fresh(image)
        results = [leaf for leaf in tree_leaves(shadow(image)) if isinstance(leaf, Tensor)]
    outputs = [recorder.known(result) for result in results]
    return Graph(
        shadow.eval(),
        start,
        tuple(recorder.constants),
        tuple(recorder.nodes),
        tuple(output for output in outputs if isinstance(output, Value)),
    )


class _Recorder(ShapeMode):  # type: ignore[no-untyped-call]
    """Notes every operator call.

    Attributes:
        values: What is known by the identity of a tensor.
        alive: All tensors of the run, so that no identity is used twice.
    """

    def __init__(self, net: nn.Module, tracker: Tracker) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker = tracker
        self.nodes: list[Node] = []
        self.constants: list[Value] = []
        self.alive: list[Tensor] = []
        tensors = dict(net.named_parameters()) | dict(net.named_buffers())
        self.values: dict[int, Value | Stored] = {
            id(tensor): Stored(name, tensor) for name, tensor in tensors.items()
        }

    def fresh(self, tensor: Tensor) -> Value:
        """Return a new value for ``tensor``; what acts in place gives its tensor a new one."""
        value = Value(len(self.alive), tuple(tensor.shape))
        self.alive.append(tensor)
        self.values[id(tensor)] = value
        return value

    def known(self, tensor: Tensor) -> Value | Stored:
        """Return what ``tensor`` is; a constant if no operator gave it."""
        if id(tensor) not in self.values:
            self.constants.append(self.fresh(tensor))
        return self.values[id(tensor)]

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        schema: Any = func._schema  # type: ignore[attr-defined]
        names = [argument.name for argument in schema.arguments]
        given = {a.name: a.default_value for a in schema.arguments}
        given |= dict(zip(names, args, strict=False)) | dict(kwargs or {})
        arguments = tree_map_only(Tensor, self.known, given)
        result = super().__torch_dispatch__(func, types, args, kwargs)
        values = self._results(result)
        self.nodes.append(Node(func, arguments, values, self.tracker.innermost, author_line()))
        return result

    def _results(self, result: Any) -> Value | list[Value] | None:
        if isinstance(result, Tensor):
            return self.fresh(result)
        if isinstance(result, list | tuple):
            return [self.fresh(part) for part in result]
        return None
