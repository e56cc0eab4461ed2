"""How channel ids pass operators that only move elements."""

from math import prod

import torch
from torch import Tensor, nn

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.flow import FROZEN, along, compress, varies


@handles(
    *("flatten", "view", "reshape", "view_as", "reshape_as", "_unsafe_view", "ravel"),
    *("unsqueeze", "squeeze", "unflatten"),
)
def reshape(call: Call) -> Result:
    """Reshape the ids with the values.

    A channel axis that is split in two (channel shuffle, radix), or that of a gate in more (radix
    and cardinality), keeps whole columns: what remains must fill the new shape, so the ids are
    tied along all axes but the longest. Elsewhere a split in three makes heads of an attention.
    """
    before = call.ids()
    full = before.expand(call.input_shape).reshape(call.shape)
    ids = compress(full)
    axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
    one_axis = sum(size > 1 for size in before.shape) == 1
    gate = prod(call.input_shape[1:]) == before.numel()
    if one_axis and (len(axes) == 2 or (len(axes) > 2 and gate)):
        long = max(axes, key=lambda axis: (ids.shape[axis], axis))
        columns = ids.movedim(long, 0).flatten(1)
        call.flow.tie_rows(columns)
        call.heal(ids.shape[long], columns[:, 0])
    elif len(axes) > 1:
        return call.freeze_inputs("the channel axis is split by a reshape")
    elif axes and not call.args.keys().isdisjoint(("size", "shape", "sizes")):
        call.heal(call.shape[axes[0]], ids.flatten())
    return ids


@handles("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Result:
    """Add leading axes."""
    ids = call.ids()
    return ids.reshape((*[1] * (len(call.shape) - ids.ndim), *ids.shape))


@handles("permute")
def permute(call: Call) -> Result:
    """Move the axes."""
    return call.ids().permute(call.args["dims"])


@handles("transpose", "swapaxes", "swapdims")
def transpose(call: Call) -> Result:
    """Swap two axes."""
    first, second = list(call.args.values())[1:]
    return call.ids().transpose(first, second)


@handles("t", "mT")
def transpose_last(call: Call) -> Result:
    """Swap the last two axes."""
    ids = call.ids()
    return ids.transpose(-2, -1) if ids.ndim > 1 else ids


@handles("movedim", "moveaxis")
def move(call: Call) -> Result:
    """Move the axes."""
    return call.ids().movedim(call.args["source"], call.args["destination"])


@handles("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """Tie the channels that become one channel's pixels."""
    channels, new = call.input_shape[1], call.shape[1]
    ids = call.ids()
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels vary over space where pixels are shuffled")
    phases = ids.flatten().expand(channels).reshape(new, -1)
    call.flow.tie_rows(phases)
    return phases[:, 0].view(1, -1, 1, 1)


@handles("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    """Tie the channels that one channel's pixels become."""
    ids = call.ids()
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels vary over space where pixels are shuffled")
    channels = ids.flatten().expand(call.input_shape[1])
    return channels.repeat_interleave(call.shape[1] // len(channels)).view(1, -1, 1, 1)


@handles("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """Tie the channels at one position of all groups, and shuffle the ids."""
    ids, groups = call.ids(), call.args["groups"]
    channels = along(ids, 1, call.input_shape[1])
    if channels is None:
        return call.freeze_inputs("channels vary over space where they are shuffled")
    columns = channels.reshape(groups, -1).T
    call.flow.tie_rows(columns)
    return columns.reshape(1, -1, *[1] * (ids.ndim - 2))


@handles("pad", "constant_pad_nd")
def pad(call: Call) -> Result:
    """Keep the ids under a pad over space; put neutral ids around padded channels.

    The numbers of padded channels are an attribute of a ``nn.ConstantPad*d`` (option-A shortcuts
    of CIFAR ResNets); it is rewritten when channels are cut.
    """
    ids, amounts = call.ids(), list(call.args["pad"])
    rank = ids.ndim
    padded = sorted({rank - 1 - i // 2 for i in range(len(amounts)) if amounts[i]})
    in_space = min(padded, default=rank) > 1 or bool((ids <= FROZEN).all())
    if not varies(ids, padded) and in_space:
        return ids
    own = isinstance(call.owner, nn.modules.padding._ConstantPadNd)
    if not own or padded[0] != 1 or varies(ids, padded[1:]) or min(amounts) < 0:
        return call.freeze_inputs("channels are padded outside an nn.ConstantPad module")
    return _pad_channels(call, ids, (amounts[-2], amounts[-1]))


def _pad_channels(call: Call, ids: Tensor, amounts: tuple[int, int]) -> Tensor:
    # A padded channel is zero, but what it is added to may be cut: so it gets an id of its own.
    before, after = (call.flow.fresh(amount) for amount in amounts)
    sizes = (*call.args["pad"][:-2], before, after)
    call.flow.size(call.module, "padding", sizes)
    rest = [1] * (ids.ndim - 2)
    return torch.cat([before.view(1, -1, *rest), ids, after.view(1, -1, *rest)], dim=1)
