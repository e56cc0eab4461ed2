"""How channel ids pass operators that only move, join or part elements."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.flow import FROZEN, compress, varies


@handles("cat", "concat")
def concatenate(call: Call) -> Result:
    """Lay the ids one behind the other."""
    parts = [call.as_ids(part) for part in call.args["tensors"]]
    nodes: Any = call.node.args[0]
    rank = len(call.shape)
    axis = call.args["dim"] % rank
    shapes = (_without(part.shape, axis) for part in parts)
    common = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    sizes = [node.meta["val"].shape[axis] for node in nodes]
    expanded = [
        part.expand(*common[:axis], size, *common[axis + 1 :])
        for part, size in zip(parts, sizes, strict=True)
    ]
    return compress(torch.cat(expanded, dim=axis))


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else size for a, size in enumerate(shape))


@handles("flatten", "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "unflatten")
def reshape(call: Call) -> Result:
    """Reshape the ids with the values.

    A channel axis that is split in two (channel shuffle, radix) keeps whole columns: what remains
    must fill the new shape, so the ids are tied along the shorter axis.
    """
    before = call.ids()
    full = before.expand(call.input_shape()).reshape(call.shape)
    ids = compress(full)
    axes = [axis for axis, size in enumerate(ids.shape) if size > 1]
    if len(axes) == 2 and sum(size > 1 for size in before.shape) == 1:
        short, long = sorted(axes, key=lambda axis: ids.shape[axis])
        call.flow.tie_rows(ids.movedim((long, short), (0, 1)).reshape(ids.shape[long], -1))
        call.heal(ids.shape[long], ids.select(short, 0).flatten())
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


@handles("transpose")
def transpose(call: Call) -> Result:
    """Swap two axes."""
    return call.ids().transpose(call.args["dim0"], call.args["dim1"])


@handles("slice")
def cut_out(call: Call) -> Result:
    """Keep the ids of a slice over space; a slice of channels needs its bounds as attributes."""
    ids, axis = call.ids(), call.args["dim"]
    if not varies(ids, [axis]):
        return ids
    size = call.input_shape()[axis]
    start, stop, step = slice(call.args["start"], call.args["end"]).indices(size)
    bounds = [bound for bound in (start, stop) if 0 < bound < size]
    healed = [call.heal(bound, ids.narrow(axis, 0, bound).flatten()) for bound in bounds]
    if not all(healed) or call.args["step"] != step or varies(ids, _others(ids, axis)):
        return call.freeze_inputs("channels are sliced by number")
    part = ids.narrow(axis, start, stop - start)
    call.flow.require(part)
    return part


@handles("select")
def select(call: Call) -> Result:
    """Drop an axis over space."""
    ids, axis = call.ids(), call.args["dim"]
    if varies(ids, [axis]):
        return call.freeze_inputs("channels are chosen by number")
    return ids.squeeze(axis)


@handles("unbind")
def unbind(call: Call) -> Result:
    """Drop an axis over space."""
    ids, axis = call.ids(), call.args["dim"]
    if varies(ids, [axis]):
        return call.freeze_inputs("channels are chosen by number")
    return [ids.squeeze(axis) for _ in call.node.meta["val"]]


@handles("chunk", "split", "split_with_sizes")
def parts(call: Call) -> Result:
    """Part the ids; equal parts stay equal, others need their sizes as attributes."""
    ids = call.ids()
    axis = call.args["dim"] % ids.ndim
    sizes = tuple(part.shape[axis] for part in call.node.meta["val"])
    if not varies(ids, [axis]):
        return [ids for _ in sizes]
    if varies(ids, _others(ids, axis)):
        return call.freeze_inputs("channels vary along two axes where they are split")
    pieces = list(ids.split(sizes, dim=axis))  # type: ignore[no-untyped-call]
    flat = [piece.flatten() for piece in pieces]
    if "chunks" in call.args and len(set(sizes)) == 1:
        call.flow.tie_rows(torch.stack(flat, dim=1))
    elif "split_size" in call.args and isinstance(call.args["split_size"], int):
        if len(set(sizes)) > 1 or not call.heal(sizes[0], flat[0]):
            return call.freeze_inputs("channels are split by number")
        call.flow.tie_rows(torch.stack(flat, dim=1))
    elif not call.heal_tuple(sizes, flat) and not all(
        call.heal(size, piece) for size, piece in zip(sizes, flat, strict=True)
    ):
        return call.freeze_inputs("channels are split by number")
    for piece in pieces:
        call.flow.require(piece)
    return pieces


@handles("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """Tie the channels that become one channel's pixels."""
    channels, new = call.input_shape()[1], call.shape[1]
    ids = call.ids()
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels vary over space where pixels are shuffled")
    phases = ids.flatten().expand(channels).reshape(new, -1)
    call.flow.tie_rows(phases)
    return phases[:, 0].view(1, -1, 1, 1)


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


def _others(ids: Tensor, axis: int) -> list[int]:
    return [other for other in range(ids.ndim) if other != axis % ids.ndim]
