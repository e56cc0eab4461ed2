"""How channel ids pass operators on single elements, on space, and what mixes channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnsplitter.channels.calls import Call, Result, Stored, handles
from cnnsplitter.channels.flow import FROZEN, compress, neutral_ids, varies


@handles("hardswish", "hardtanh", "relu6")  # not tagged pointwise by PyTorch
def pointwise(call: Call) -> Result:
    """Tie the ids of all operands that the operator aligns."""
    operands = [call.as_ids(v) for v in call.args.values() if isinstance(v, Tensor | Stored)]
    result = neutral_ids(len(call.shape))
    for ids in operands:
        if ids.numel() == 1 and ids.item() > FROZEN and any(o.numel() > 1 for o in operands):
            # One channel spread over many others (a spatial gate) aligns with none of them.
            call.flow.freeze(ids, "one channel is spread over all others", call.module)
        else:
            result = call.flow.unite(result, ids)
    return result


@handles("prelu")
def prelu(call: Call) -> Result:
    """Keep the ids; the slopes lie along the channels, not along the last axis."""
    ids, slopes = call.ids("self"), call.as_ids(call.args["weight"])
    if slopes.numel() == 1:
        return ids
    return call.flow.unite(ids, slopes.view(1, -1, *[1] * (ids.ndim - 2)))


@handles("glu")
def glu(call: Call) -> Result:
    """Tie the two halves."""
    ids = call.ids()
    axis = call.args["dim"] % ids.ndim
    if not varies(ids, [axis]):
        return ids
    first, second = ids.chunk(2, dim=axis)
    return call.flow.unite(first, second)


@handles(
    *("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "flip"),
)
def spatial(call: Call) -> Result:
    """Keep the ids: channels are not mixed."""
    ids = call.ids()
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels are pooled with their neighbours")
    return ids


@handles(
    *("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias"),
    *("to", "_to_copy", "type_as", "lift_fresh_copy"),
)
def unchanged(call: Call) -> Result:
    """Keep the ids."""
    return call.ids()


@handles("zeros", "ones", "full", "arange", "zeros_like", "ones_like", "full_like", "scalar_tensor")
def constant(call: Call) -> Result:
    """Give neutral ids to numbers that come from nowhere."""
    return neutral_ids(len(call.shape))


@handles("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp")
def reduction(call: Call) -> Result:
    """Drop the reduced axes; a reduction over all channels mixes them, one over a radix ties."""
    ids = call.ids()
    named = call.args.get("dim")
    axes = range(ids.ndim) if named is None else [a % ids.ndim for a in _as_list(named)]
    tied = _tied_along(call, ids, axes)
    if tied is None:
        return call.freeze_inputs("channels are averaged, summed or compared with each other")
    for axis in sorted(axes, reverse=True):
        tied = tied if call.args.get("keepdim") else tied.squeeze(axis)
    return tied


@handles("softmax", "log_softmax")
def softmax(call: Call) -> Result:
    """Keep the ids of a softmax over space or a radix; one over all channels mixes them."""
    ids = call.ids()
    if _tied_along(call, ids, [call.args["dim"] % ids.ndim]) is None:
        return call.freeze_inputs("channels compete in a softmax")
    return ids


def _tied_along(call: Call, ids: Tensor, axes: Sequence[int]) -> Tensor | None:
    """Tie the ids along ``axes`` and return them shrunk; None if these are all the channels."""
    if not varies(ids, axes):
        return ids
    if not varies(ids, [axis for axis in range(ids.ndim) if axis not in axes]):
        return None
    for axis in axes:
        first = ids.narrow(axis, 0, 1)
        call.flow.unite(first, ids)
        ids = first
    return compress(ids)


@handles(
    *("matmul", "bmm", "baddbmm", "mm", "addmm", "einsum", "scaled_dot_product_attention"),
    *("cumsum", "cumprod", "sort", "topk", "argmax", "argmin", "index", "index_select", "gather"),
    *("roll", "copy", "index_put", "slice_scatter", "repeat", "channel_shuffle", "var_mean"),
)
def mixing(call: Call) -> Result:
    """Freeze: these mix channels, or name them by number."""
    name = call.node.target._schema.name.removeprefix("aten::")  # type: ignore[union-attr]
    return call.freeze_inputs(f"{name} mixes channels or names them by number")


def _as_list(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


def is_pointwise(packet_name: str, tags: Sequence[torch.Tag]) -> bool:
    """Tell whether PyTorch tags an operator, or its form that is not in-place, as pointwise."""
    packet = getattr(torch.ops.aten, packet_name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
    return torch.Tag.pointwise in tags or any(torch.Tag.pointwise in o.tags for o in overloads)
