"""Empty results of the operators that most networks are made of.

PyTorch's own shapes are Python code whose first call imports its compiler and sympy: seconds for a
network that runs in milliseconds. Each function here gives None wherever it is not sure, so that
PyTorch answers, and tells what is wrong.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Sizes = Sequence[int]


def quick_shape(operator: Any, args: tuple[Any, ...]) -> Tensor | None:
    """Return the empty result of an operator on meta tensors; None if PyTorch must tell it."""
    rule = _RULES.get(operator)
    if rule is None:
        return None
    x = args[0]
    plain = isinstance(x, Tensor) and x.is_meta and x.is_contiguous()
    return rule(*args) if plain else None


def _like(x: Tensor, shape: Sizes | None = None) -> Tensor:
    return torch.empty(x.shape if shape is None else shape, dtype=x.dtype, device="meta")


def _same(x: Tensor, *others: object) -> Tensor | None:
    return _like(x) if x.is_floating_point() else None


def _in_place(x: Tensor, *others: object) -> Tensor:
    return x


def _added(x: Tensor, y: object, *others: object) -> Tensor | None:
    alike = isinstance(y, Tensor) and (y.shape, y.dtype) == (x.shape, x.dtype)
    return _like(x) if alike else None


def _added_in_place(x: Tensor, y: object, *others: object) -> Tensor | None:
    return None if _added(x, y) is None else x


def _normed(x: Tensor, *settings: Any) -> Tensor | None:
    *per_channel, training = settings[:5]
    fitting = all(tensor is None or len(tensor) == x.shape[1] for tensor in per_channel)
    return None if training or not fitting else _like(x)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1,),
    padding: Sizes = (0,),
    dilation: Sizes = (1,),
    groups: int = 1,
) -> Tensor | None:
    if x.ndim != 4 or x.shape[1] != weight.shape[1] * groups or x.dtype != weight.dtype:
        return None
    if len(weight) % groups or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    size = _windows(x, weight.shape[2:], stride, padding, dilation)
    return None if min(size) < 1 else _like(x, (len(x), len(weight), *size))


def _pooled(
    x: Tensor,
    kernel: Sizes,
    stride: Sizes = (),
    padding: Sizes = (0,),
    *others: Any,
) -> Tensor | None:
    if x.ndim != 4 or others:  # dilation, or sizes that are rounded up
        return None
    size = _windows(x, kernel, stride or kernel, padding, (1,))
    return None if min(size) < 1 else _like(x, (*x.shape[:2], *size))


def _pooled_to(x: Tensor, size: Sizes) -> Tensor | None:
    return _like(x, (*x.shape[:2], *size)) if x.ndim == 4 and len(size) == 2 else None


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    fitting = weight.ndim == 2 and x.shape[-1] == weight.shape[1] and x.dtype == weight.dtype
    if not fitting or (bias is not None and bias.shape != weight.shape[:1]):
        return None
    return _like(x, (*x.shape[:-1], len(weight)))


def _windows(x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes) -> list[int]:
    """Return how many windows fit into the height and the width."""
    settings = (kernel, stride, padding, dilation)
    pairs = ([*sizes] * 2 if len(sizes) == 1 else sizes for sizes in settings)
    rows = zip(x.shape[2:], *pairs, strict=True)
    return [(s + 2 * p - d * (k - 1) - 1) // step + 1 for s, k, step, p, d in rows]


_ATEN = torch.ops.aten
_RULES: dict[Any, Callable[..., Tensor | None]] = {
    _ATEN.conv2d.default: _convolved,
    _ATEN.batch_norm.default: _normed,
    _ATEN.relu.default: _same,
    _ATEN.relu_.default: _in_place,
    _ATEN.add.Tensor: _added,
    _ATEN.add_.Tensor: _added_in_place,
    _ATEN.max_pool2d.default: _pooled,
    _ATEN.avg_pool2d.default: _pooled,
    _ATEN.adaptive_avg_pool2d.default: _pooled_to,
    _ATEN.linear.default: _linear,
}
