"""The white list: how channel ids pass each ATen operator.

A handler takes a :class:`Call` and returns the ids of the operator's result. What is not listed
here (or tagged pointwise by PyTorch) is unknown; :mod:`cnnsplitter.channels.trace` decides what
happens then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from cnnsplitter.channels.flow import (
    FROZEN,
    Flow,
    SizedAttribute,
    along,
    compress,
    frozen_ids,
    neutral_ids,
    varies,
)

Result = Tensor | list[Tensor]
"""Ids of what an operator gives: one tensor, or several."""


@dataclass(frozen=True)
class Stored:
    """A parameter or buffer of the network as an argument of an operator."""

    name: str
    tensor: Tensor


@dataclass(frozen=True)
class Call:
    """One operator call of the graph.

    Attributes:
        flow: What the walk has found so far; handlers add to it.
        model: The analysed copy of the network.
        node: The graph node.
        module: Path of the innermost module that makes the call.
        linear_units: Whether rows of hidden linear layers are units too.
        args: The arguments by the operator's schema; tensors as ids or as :class:`Stored`.
    """

    flow: Flow
    model: nn.Module
    node: fx.Node
    module: str
    linear_units: bool
    args: dict[str, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return tuple(self.node.meta["val"].shape)

    def input_shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of a tensor argument."""
        argument = self.node.args[position]
        assert isinstance(argument, fx.Node)
        return tuple(argument.meta["val"].shape)

    def ids(self, name: str) -> Tensor:
        """Ids of a tensor argument; a parameter with one long axis gets ids of its own."""
        value = self.args[name]
        if isinstance(value, Stored):
            return self._stored_ids(value)
        if not isinstance(value, Tensor):
            return neutral_ids(0)
        return value

    def freeze_inputs(self, reason: str) -> Result:
        """Freeze every channel that reaches this call; the result is frozen, too."""
        for name, value in self.args.items():
            values = value if isinstance(value, list | tuple) else [value]
            for part in values:
                if isinstance(part, Tensor):
                    self.flow.freeze(part, reason, self.module)
                elif isinstance(part, Stored):
                    self.flow.freeze(self._stored_ids(part), f"{reason} ({name})", self.module)
        return self.frozen_result()

    def frozen_result(self) -> Result:
        """Return frozen ids for the result, or a list of them where the operator gives several."""
        value = self.node.meta["val"]
        if isinstance(value, list | tuple):
            return [frozen_ids(part.ndim) for part in value]
        return frozen_ids(value.ndim)

    def _stored_ids(self, stored: Stored) -> Tensor:
        shape = stored.tensor.shape
        long_axes = [axis for axis, size in enumerate(shape) if size > 1]
        if len(long_axes) != 1:
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


@handles("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Result:
    """Make fresh ids for the kernels; note the ids that are read (method.md: kernel, unit)."""
    weight, groups = call.args["weight"], call.args["groups"]
    channels = along(call.ids("input"), 1, call.input_shape()[1])
    layer = _own_layer(call, nn.modules.conv._ConvNd)
    if channels is None or layer is None:
        return call.freeze_inputs("the convolution's weight or input is not a layer's own")
    if groups == 1:
        kernels = call.flow.fresh(weight.tensor.shape[0])
        call.flow.record(weight.name, 1, channels)
        call.flow.read(layer, channels)
    elif groups == len(channels):
        kernels = channels.repeat_interleave(weight.tensor.shape[0] // groups)
    else:
        kernels = _whole_groups(call, channels)
    _record_rows(call, kernels)
    call.flow.write(layer, kernels)
    return kernels.view(1, -1, *[1] * (len(call.shape) - 2))


def _whole_groups(call: Call, channels: Tensor) -> Tensor:
    """Tie inputs and kernels of each group, so that whole groups are kept or dropped."""
    groups = call.args["groups"]
    kernels = call.flow.fresh(call.args["weight"].tensor.shape[0])
    members = torch.cat([channels.reshape(groups, -1), kernels.view(groups, -1)], dim=1)
    for group in members:
        call.flow.tie(group)
    return kernels


@handles("linear")
def linear(call: Call) -> Result:
    """Note the ids that are read; the rows are frozen unless hidden rows count as units."""
    weight = call.args["weight"]
    features = along(call.ids("input"), -1, call.input_shape()[-1])
    layer = _own_layer(call, nn.Linear)
    if features is None or layer is None:
        return call.freeze_inputs("the linear layer's weight or input is not a layer's own")
    call.flow.record(weight.name, 1, features)
    call.flow.read(layer, features)
    if not call.linear_units:
        return frozen_ids(len(call.shape))
    rows = call.flow.fresh(weight.tensor.shape[0])
    _record_rows(call, rows)
    call.flow.write(layer, rows)
    return rows.view(*[1] * (len(call.shape) - 1), -1)


def _own_layer(call: Call, kind: type[nn.Module]) -> str | None:
    """Return the path of the module whose weight this call uses, if hooks can reach its input."""
    weight = call.args["weight"]
    module = call.model.get_submodule(call.module)
    owns = isinstance(weight, Stored) and getattr(module, "weight", None) is weight.tensor
    return call.module if owns and isinstance(module, kind) else None


def _record_rows(call: Call, rows: Tensor) -> None:
    for name in ("weight", "bias"):
        stored = call.args[name]
        if isinstance(stored, Stored):
            call.flow.record(stored.name, 0, rows)


@handles("batch_norm", "instance_norm")
def channel_norm(call: Call) -> Result:
    """Keep the ids: statistics, weight and bias are per channel."""
    ids = call.ids("input")
    channels = along(ids, 1, call.input_shape()[1])
    if channels is None:
        return call.freeze_inputs("the norm's channels cannot be followed")
    for name in ("weight", "bias", "running_mean", "running_var"):
        stored = call.args[name]
        if isinstance(stored, Stored):
            call.flow.record(stored.name, 0, channels)
    return ids


@handles(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d"),
)
def spatial(call: Call) -> Result:
    """Keep the ids: channels are not mixed."""
    ids = call.ids("input" if "input" in call.args else "self")
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels vary over space where pixels are pooled")
    return ids


@handles("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias")
def unchanged(call: Call) -> Result:
    """Keep the ids."""
    return call.ids("input" if "input" in call.args else "self")


@handles("mean", "sum", "amax", "amin")
def reduction(call: Call) -> Result:
    """Drop the reduced axes; a reduction over channels mixes them."""
    ids = call.ids("self")
    axes = call.args.get("dim")
    axes = range(ids.ndim) if axes is None else [a % ids.ndim for a in _as_list(axes)]
    if varies(ids, axes):
        return call.freeze_inputs("channels are averaged or summed over")
    for axis in sorted(axes, reverse=True):
        ids = ids if call.args.get("keepdim") else ids.squeeze(axis)
    return ids


@handles("cat", "concat")
def concatenate(call: Call) -> Result:
    """Lay the ids one behind the other."""
    parts = call.args["tensors"]
    nodes: Any = call.node.args[0]
    rank = len(call.shape)
    axis = call.args["dim"] % rank
    shapes = (_without(part.shape, axis) for part in parts)
    common = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    sizes = [node.meta["val"].shape[axis] for node in nodes]
    return compress(
        torch.cat(
            [
                part.expand(*common[:axis], size, *common[axis + 1 :])
                for part, size in zip(parts, sizes, strict=True)
            ],
            dim=axis,
        )
    )


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else size for a, size in enumerate(shape))


@handles("flatten", "view", "reshape", "unsqueeze", "squeeze", "unflatten")
def reshape(call: Call) -> Result:
    """Reshape the ids with the values; a channel axis that is split stays whole."""
    ids = compress(call.ids("self").expand(call.input_shape()).reshape(call.shape))
    if sum(size > 1 for size in ids.shape) > 1:
        return call.freeze_inputs("the channel axis is split by a reshape")
    return ids


@handles("permute")
def permute(call: Call) -> Result:
    """Move the axes."""
    return call.ids("self").permute(call.args["dims"])


@handles("transpose")
def transpose(call: Call) -> Result:
    """Swap two axes."""
    return call.ids("self").transpose(call.args["dim0"], call.args["dim1"])


@handles("slice")
def cut_out(call: Call) -> Result:
    """Keep the ids of a slice over space; a slice of channels names channels by number."""
    ids = call.ids("self")
    if varies(ids, [call.args["dim"]]):
        return call.freeze_inputs("channels are sliced by number")
    return ids


@handles("chunk", "split", "split_with_sizes")
def parts(call: Call) -> Result:
    """Keep the ids of parts over space; parts of the channels are named by number."""
    ids = call.ids("self")
    if varies(ids, [call.args["dim"]]):
        return call.freeze_inputs("channels are split by number")
    return [ids for _ in call.node.meta["val"]]


@handles("pad", "constant_pad_nd")
def pad(call: Call) -> Result:
    """Keep the ids under a pad over space; put neutral ids around padded channels.

    The numbers of padded channels are an attribute of a ``nn.ConstantPad*d`` (option-A shortcuts
    of CIFAR ResNets); it is rewritten when channels are cut.
    """
    ids, amounts = call.ids("self"), list(call.args["pad"])
    rank = ids.ndim
    padded = {rank - 1 - i // 2 for i in range(len(amounts)) if amounts[i]}
    if not varies(ids, sorted(padded)) and (
        min(padded, default=rank) > 1 or bool((ids <= FROZEN).all())
    ):
        return ids
    module = call.model.get_submodule(call.module)
    own = isinstance(module, nn.modules.padding._ConstantPadNd)
    if not own or min(padded) != 1 or varies(ids, sorted(padded - {1})) or min(amounts) < 0:
        return call.freeze_inputs("channels are padded outside an nn.ConstantPad module")
    return _pad_channels(call, ids, (amounts[-2], amounts[-1]))


def _pad_channels(call: Call, ids: Tensor, amounts: tuple[int, int]) -> Tensor:
    # A padded channel is zero, but what it is added to may be cut: so it gets an id of its own.
    before, after = (call.flow.fresh(amount) for amount in amounts)
    parts = (*call.args["pad"][:-2], before, after)
    call.flow.sized.append(SizedAttribute(call.module, "padding", parts))
    rest = [1] * (ids.ndim - 2)
    return torch.cat([before.view(1, -1, *rest), ids, after.view(1, -1, *rest)], dim=1)


@handles("hardswish", "hardtanh", "relu6")  # not tagged pointwise by PyTorch
def pointwise(call: Call) -> Result:
    """Tie the ids of all operands that the operator aligns."""
    operands = [call.ids(n) for n, v in call.args.items() if isinstance(v, Tensor | Stored)]
    result = neutral_ids(len(call.shape))
    for ids in operands:
        if ids.numel() == 1 and ids.item() > FROZEN and any(o.numel() > 1 for o in operands):
            # One channel spread over many others (a spatial gate) aligns with none of them.
            call.flow.freeze(ids, "one channel is spread over all others", call.module)
        else:
            result = call.flow.unite(result, ids)
    return result


def handler_for(node: fx.Node) -> Handler | None:
    """Return the handler of a call, or None for an operator that is not on the white list."""
    target: Any = node.target
    # In-place variants act like the plain ones but do not always carry their tags.
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    if name in HANDLERS:
        return HANDLERS[name]
    packet = getattr(torch.ops.aten, name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet else [target]
    return pointwise if any(torch.Tag.pointwise in o.tags for o in overloads) else None


def _as_list(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
