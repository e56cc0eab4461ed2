"""How channel ids pass operators on single elements and on space."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.flow import FROZEN, neutral_ids, varies
from cnnsplitter.channels.graph import Stored


# What PyTorch does not tag as pointwise; all else that acts on single elements is found by its tag.
@handles(
    *("hardswish", "hardtanh", "relu6", "softsign", "tanhshrink", "log_sigmoid"),
    *("multiply", "divide", "subtract"),
)
def pointwise(call: Call) -> Result:
    """Tie the ids of all operands that the operator aligns."""
    return align(
        call, [call.as_ids(v) for v in call.args.values() if isinstance(v, Tensor | Stored)]
    )


def align(call: Call, operands: Sequence[Tensor]) -> Tensor:
    """Tie the ids of operands that are broadcast to the result's shape, and return its ids."""
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
    *("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d"),
    *("upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
    *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    *("reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d"),
)
def spatial(call: Call) -> Result:
    """Keep the ids: channels are not mixed."""
    ids = call.ids()
    if varies(ids, range(2, ids.ndim)):
        return call.freeze_inputs("channels are pooled with their neighbours")
    return ids


@handles("flip")
def flip(call: Call) -> Result:
    """Flip the ids with the values."""
    return call.ids().flip(call.args["dims"])


@handles("max_pool2d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d")
def spatial_with_indices(call: Call) -> Result:
    """Keep the ids, for the values and for where they were found."""
    result = spatial(call)
    return result if isinstance(result, list) else [result, result]


@handles(
    *("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "detach", "alias"),
    *("to", "_to_copy", "type_as", "lift", "lift_fresh", "lift_fresh_copy", "fill", "zero"),
)
def unchanged(call: Call) -> Result:
    """Keep the ids."""
    return call.ids()


@handles(
    *("zeros", "ones", "full", "empty", "rand", "arange", "linspace", "eye", "scalar_tensor"),
    *("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_full", "new_empty"),
)
def constant(call: Call) -> Result:
    """Give neutral ids to numbers that come from nowhere."""
    return neutral_ids(len(call.shape))


def is_pointwise(packet_name: str, tags: Sequence[torch.Tag]) -> bool:
    """Tell whether PyTorch tags an operator, or its form that is not in-place, as pointwise."""
    packet = getattr(torch.ops.aten, packet_name, None)
    overloads = [getattr(packet, o) for o in packet.overloads()] if packet is not None else []
    return torch.Tag.pointwise in tags or any(torch.Tag.pointwise in o.tags for o in overloads)
