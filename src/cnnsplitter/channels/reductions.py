"""How channel ids pass what runs over many elements: sums, products, and what mixes channels."""

from collections.abc import Sequence

from torch import Tensor

from cnnsplitter.channels.calls import Call, Result, handles
from cnnsplitter.channels.elementwise import align
from cnnsplitter.channels.flow import compress, neutral_ids, varies


@handles("mean", "sum", "amax", "amin", "var", "std", "norm", "linalg_vector_norm", "logsumexp")
def reduction(call: Call) -> Result:
    """Drop the reduced axes; a reduction over all channels mixes them, one over a radix ties."""
    ids = call.ids()
    named = call.args.get("dim")
    axes = range(ids.ndim) if named is None else [a % ids.ndim for a in _as_list(named)]
    tied = _tied_along(call, ids, axes)
    if tied is None:
        call.freeze_inputs("channels are averaged, summed or compared with each other")
        return neutral_ids(len(call.shape))
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


@handles("matmul", "bmm", "mm")
def product(call: Call) -> Result:
    """Keep the ids of channels that a matrix weighs over space; a sum over channels mixes them."""
    first, second = (call.as_ids(value) for value in call.args.values())
    if min(first.ndim, second.ndim) < 2 or varies(first, [-1]) or varies(second, [-2]):
        return mixing(call)
    if varies(first, [-2]) and varies(second, [-1]):
        return mixing(call)
    return align(call, [first, second])


@handles(
    *("baddbmm", "addmm", "einsum", "scaled_dot_product_attention", "rms_norm", "outer"),
    *("cumsum", "cumprod", "sort", "topk", "argmax", "argmin", "index", "index_select", "gather"),
    *("roll", "copy", "index_put", "slice_scatter", "repeat", "var_mean"),
    *("_weight_norm", "_weight_norm_interface", "mv", "dot", "vdot"),
    *("repeat_interleave", "tile", "im2col", "unfold", "median", "prod", "argsort", "diff"),
)
def mixing(call: Call) -> Result:
    """Freeze: these mix channels, or name them by number."""
    return call.freeze_inputs(f"{call.node.name} mixes channels or names them by number")


def _as_list(value: int | Sequence[int]) -> list[int]:
    return [value] if isinstance(value, int) else list(value)
