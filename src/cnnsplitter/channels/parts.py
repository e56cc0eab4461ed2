"""How channel ids pass operators that join tensors or take parts of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.flow import compress, varies


@handles("cat", "concat")
def concatenate(call: Call) -> Result:
    """Lay the ids one behind the other."""
    axis = call.args["dim"] % len(call.shape)
    sizes = [part.shape[axis] for part in call.node.arguments["tensors"]]
    return _joined([call.as_ids(part) for part in call.args["tensors"]], sizes, axis)


@handles("stack")
def stack(call: Call) -> Result:
    """Lay the ids one behind the other along a new axis."""
    axis = call.args["dim"] % len(call.shape)
    layers = [call.as_ids(part).unsqueeze(axis) for part in call.args["tensors"]]
    return _joined(layers, [1] * len(layers), axis)


def _joined(parts: Sequence[Tensor], sizes: Sequence[int], axis: int) -> Tensor:
    shapes = (_without(part.shape, axis) for part in parts)
    common = torch.broadcast_shapes(*shapes)  # type: ignore[no-untyped-call]
    expanded = [
        part.expand(*common[:axis], size, *common[axis + 1 :])
        for part, size in zip(parts, sizes, strict=True)
    ]
    return compress(torch.cat(expanded, dim=axis))


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else size for a, size in enumerate(shape))


@handles("slice")
def cut_out(call: Call) -> Result:
    """Keep the ids of a slice over space; a slice of channels needs its bounds as attributes."""
    ids, axis = call.ids(), call.args["dim"]
    if not varies(ids, [axis]):
        return ids
    size = call.input_shape[axis]
    start, stop, step = slice(call.args["start"], call.args["end"]).indices(size)
    bounds = [bound for bound in (start, stop) if 0 < bound < size]
    healed = [call.heal(bound, ids.narrow(axis, 0, bound).flatten()) for bound in bounds]
    if not all(healed) or call.args["step"] != step or varies(ids, _others(ids, axis)):
        return call.freeze_inputs("channels are sliced by number")
    return _required(call, ids.narrow(axis, start, stop - start))


@handles("narrow")
def narrow(call: Call) -> Result:
    """Keep the ids of a part over space; a part of the channels needs its bounds as attributes."""
    ids, axis = call.ids(), call.args["dim"]
    if not varies(ids, [axis]):
        return ids
    start, length = call.args["start"], call.args["length"]
    part = ids.narrow(axis, start, length)
    before = ids.narrow(axis, 0, start).flatten()
    healed = call.heal(length, part.flatten()) and (start == 0 or call.heal(start, before))
    if not healed or varies(ids, _others(ids, axis)):
        return call.freeze_inputs("channels are sliced by number")
    return _required(call, part)


def _required(call: Call, part: Tensor) -> Tensor:
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
    return [ids.squeeze(axis) for _ in call.shapes]


@handles("chunk", "split", "split_with_sizes")
def parts(call: Call) -> Result:
    """Part the ids; equal parts stay equal, others need their sizes as attributes."""
    ids = call.ids()
    axis = call.args["dim"] % ids.ndim
    sizes = tuple(shape[axis] for shape in call.shapes)
    if not varies(ids, [axis]):
        return [ids for _ in sizes]
    if varies(ids, _others(ids, axis)):
        return call.freeze_inputs("channels vary along two axes where they are split")
    pieces = list(ids.split(sizes, dim=axis))  # type: ignore[no-untyped-call]
    flat = [piece.flatten() for piece in pieces]
    if "chunks" in call.args and len(set(sizes)) == 1:
        call.flow.tie_rows(torch.stack(flat, dim=1))
    elif "split_size" in call.args and isinstance(call.args["split_size"], int):
        # The attribute is the size of a part or, as in CSPNet, that of the whole.
        healed = [call.heal(sizes[0], flat[0]), call.heal(sum(sizes), torch.cat(flat))]
        if len(set(sizes)) > 1 or not any(healed):
            return call.freeze_inputs("channels are split by number")
        call.flow.tie_rows(torch.stack(flat, dim=1))
    elif not call.heal_tuple(sizes, flat) and not all(
        call.heal(size, piece) for size, piece in zip(sizes, flat, strict=True)
    ):
        return call.freeze_inputs("channels are split by number")
    for piece in pieces:
        call.flow.require(piece)
    return pieces


def _others(ids: Tensor, axis: int) -> list[int]:
    return [other for other in range(ids.ndim) if other != axis % ids.ndim]
