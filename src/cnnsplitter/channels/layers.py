"""How channel ids pass layers with weights: convolutions, linear layers and norms."""

import torch
from torch import Tensor, nn

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.flow import along
from cnnsplitter.channels.graph import Stored

COMPUTED = "the weights are computed from others; cnnsplitter.bake(model) makes them plain"


@handles("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Result:
    """Make fresh ids for the kernels; note the ids that are read (method.md: kernel, unit)."""
    channels = along(call.ids("input"), 1, call.input_shape[1])
    layer = call.own_layer(nn.modules.conv._ConvNd)
    if channels is None:
        return call.freeze_inputs("a convolution runs along the channels")
    if not isinstance(call.args["weight"], Stored):
        return _computed(call)
    if call.args["groups"] == len(channels) > 1:
        kernels = _depthwise(call, channels)
    elif layer is None:
        return call.freeze_inputs("the weight does not belong to the layer that uses it")
    elif call.args["groups"] == 1:
        kernels = _dense(call, channels, layer)
    else:
        kernels = _grouped(call, channels, layer)
    record_rows(call, kernels)
    if layer is not None:
        call.flow.write(layer, kernels)
    return kernels.view(1, -1, *[1] * (len(call.shape) - 2))


def _computed(call: Call) -> Result:
    """Freeze; the kernels count all the same, so that what cannot be selected is reported."""
    result = call.freeze_inputs(COMPUTED)
    if isinstance(call.owner, nn.modules.conv._ConvNd):
        kernels = call.flow.fresh(call.shape[1])
        call.flow.write(call.module, kernels)
        call.flow.freeze(kernels, COMPUTED, call.module)
    return result


def _dense(call: Call, channels: Tensor, layer: str) -> Tensor:
    weight = call.args["weight"]
    call.flow.record(weight.name, 1, channels)
    call.flow.read(layer, channels)
    return call.flow.fresh(weight.tensor.shape[0])


def _depthwise(call: Call, channels: Tensor) -> Tensor:
    """Keep the ids: each kernel sees one channel, so nothing is mixed and nothing masked."""
    note_groups(call, channels)
    return channels.repeat_interleave(call.args["weight"].tensor.shape[0] // len(channels))


def _grouped(call: Call, channels: Tensor, layer: str) -> Tensor:
    """Keep whole groups, or equal shares of all groups, whichever leaves more to choose."""
    weight, groups = call.args["weight"], call.args["groups"]
    kernels = call.flow.fresh(weight.tensor.shape[0])
    inputs, outputs = channels.reshape(groups, -1), kernels.view(groups, -1)
    if inputs.shape[1] + outputs.shape[1] > groups:
        # The members at one position of every group share their fate; the weight's input axis
        # is common to all groups.
        call.flow.tie_rows(inputs.T)
        call.flow.tie_rows(outputs.T)
        call.flow.record(weight.name, 1, inputs[0])
        call.flow.read(layer, channels)
    else:
        call.flow.tie_rows(torch.cat([inputs, outputs], dim=1))
        note_groups(call, inputs[:, 0])
    return kernels


def note_groups(call: Call, representatives: Tensor) -> None:
    """Note that the layer's number of groups counts ``representatives``, one id per group."""
    if isinstance(call.owner, nn.modules.conv._ConvNd):
        call.flow.size(call.module, "groups", representatives)
    else:
        call.heal(len(representatives), representatives)


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Result:
    """Make fresh ids for the kernels, which lie on the weight's second axis."""
    channels = along(call.ids("input"), 1, call.input_shape[1])
    layer = call.own_layer(nn.modules.conv._ConvNd)
    weight = call.args["weight"]
    if channels is None or layer is None or call.args["groups"] != 1:
        return call.freeze_inputs("a grouped or computed transposed convolution")
    kernels = call.flow.fresh(weight.tensor.shape[1])
    call.flow.record(weight.name, 0, channels)
    call.flow.record(weight.name, 1, kernels)
    if isinstance(call.args["bias"], Stored):
        call.flow.record(call.args["bias"].name, 0, kernels)
    call.flow.read(layer, channels)
    call.flow.write(layer, kernels)
    return kernels.view(1, -1, *[1] * (len(call.shape) - 2))


@handles("linear")
def linear(call: Call) -> Result:
    """Make fresh ids for the rows; note the ids that are read."""
    weight = call.args["weight"]
    features = along(call.ids("input"), -1, call.input_shape[-1])
    layer = call.own_layer(nn.Linear)
    if not isinstance(weight, Stored):
        return call.freeze_inputs(COMPUTED)
    if features is None or layer is None:
        return call.freeze_inputs("a linear layer runs along the channels or uses other weights")
    call.flow.record(weight.name, 1, features)
    call.flow.read(layer, features)
    rows = call.flow.fresh(weight.tensor.shape[0])
    record_rows(call, rows)
    call.flow.write_rows(layer, rows)
    return rows.view(*[1] * (len(call.shape) - 1), -1)


def record_rows(call: Call, rows: Tensor) -> None:
    """Note the ids of the first axis of a layer's weight and bias."""
    for name in ("weight", "bias"):
        stored = call.args[name]
        if isinstance(stored, Stored):
            call.flow.record(stored.name, 0, rows)


@handles("batch_norm", "instance_norm")
def channel_norm(call: Call) -> Result:
    """Keep the ids: statistics, weight and bias are per channel."""
    ids = call.ids("input")
    channels = along(ids, 1, call.input_shape[1])
    if channels is None:
        return call.freeze_inputs("the channels of a norm vary over space")
    record_rows(call, channels)
    for name in ("running_mean", "running_var"):
        if isinstance(call.args[name], Stored):
            call.flow.record(call.args[name].name, 0, channels)
    return ids


@handles("group_norm")
def group_norm(call: Call) -> Result:
    """Tie the channels of each group, so that whole groups are kept or dropped."""
    ids, groups = call.ids("input"), call.args["num_groups"]
    channels = along(ids, 1, call.input_shape[1])
    if channels is None or call.own_layer(nn.GroupNorm) is None or groups == 1:
        return call.freeze_inputs("a norm over all channels")
    by_group = channels.reshape(groups, -1)
    call.flow.tie_rows(by_group)
    record_rows(call, channels)
    call.flow.size(call.module, "num_groups", by_group[:, 0])
    return ids


@handles("layer_norm")
def layer_norm(call: Call) -> Result:
    """Keep the ids of a norm over the channels; masks use the statistics of kept channels."""
    ids, sizes = call.ids("input"), tuple(call.args["normalized_shape"])
    channels = along(ids, -1, call.input_shape[-1])
    entry = call.entry if call.entry is not None else ids
    axes = [axis for axis, size in enumerate(entry.shape) if size > 1]
    known = isinstance(call.owner, nn.LayerNorm) and call.owner.normalized_shape == sizes
    if channels is None or not known or len(sizes) != 1 or len(axes) != 1:
        return call.freeze_inputs("a norm over channels that is not an nn.LayerNorm of them")
    record_rows(call, channels)
    call.flow.size(call.module, "normalized_shape", (channels,))
    call.flow.normalise(call.module, channels, axes[0])
    return ids
