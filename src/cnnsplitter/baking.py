"""Baking: layers that compute their weights become plain layers with these weights.

Standardised, weight-normed, spectral-normed and parametrised layers mix channels in the computation
of their weights, so that none of them could be cut. The baked network gives the same outputs; it
trains otherwise.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name
from torch.overrides import TorchFunctionMode

from cnnsplitter.nets import copied, eval_mode

_TOLERANCE = 1e-12
_Plain = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
_FUNCTIONS: dict[Callable[..., Tensor], type[_Plain]] = {
    F.conv1d: nn.Conv1d,
    F.conv2d: nn.Conv2d,
    F.conv3d: nn.Conv3d,
    F.linear: nn.Linear,
}


class SamePaddedConv2d(nn.Conv2d):
    """A convolution whose output is ceil(size / stride) wide, padded by zeros as in TensorFlow."""

    def forward(self, x: Tensor) -> Tensor:
        """Map float[B, C, H, W] to float[B, K, ceil(H / stride), ceil(W / stride)]."""
        amounts: list[int] = []
        for axis in (1, 0):  # F.pad starts with the last axis
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (-(-size // stride) - 1) * stride + self._extent(axis)
            missing = max(0, reach - size)
            amounts += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(x, amounts))

    def _extent(self, axis: int) -> int:
        return (self.kernel_size[axis] - 1) * self.dilation[axis] + 1


def bake(model: nn.Module) -> nn.Module:
    """Return a copy in which layers that compute their weights are plain ones.

    A convolution or linear layer whose weight is not a parameter of its own is replaced by
    ``nn.Conv*d`` or ``nn.Linear`` with the weight that it uses in evaluation mode: weight
    standardisation (timm's ``StdConv2d`` and ``ScaledStdConv2d``), ``weight_norm``,
    ``spectral_norm``, and ``torch.nn.utils.parametrize``. A layer is replaced only if both give
    the same outputs, to 1e-12 in float64, on random inputs; others stay as they are.

    Args:
        model: Any network; not touched.

    Returns:
        The copy; in evaluation mode it gives the same outputs as ``model``.

    Raises:
        UnsupportedModelError: The network keeps computed tensors, such as activations.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        plain = _plain(module) if isinstance(module, _Plain) else None
        if plain is not None:
            memo[id(module)] = plain.train(module.training)
    return copied(model, memo)


def _plain(module: _Plain) -> _Plain | None:
    """Return a plain layer that does the same, None if ``module`` is plain or there is none."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    if not all(type(hook).__module__.startswith("torch.nn.utils") for hook in hooks):
        return None
    inputs = [_noise(module, extra) for extra in (1, 2)]
    with eval_mode(module), torch.no_grad():
        try:
            with _Weights() as seen:
                expected = [module(x) for x in inputs]
        except Exception:  # the layer may be the user's own, with errors of any type
            return None  # a forward of another kind, such as with several inputs
        if seen.kind is None or seen.weight is module._parameters.get("weight"):
            return None
        for candidate in _candidates(module, seen):
            if all(map(_equal, expected, (candidate(x) for x in inputs))):
                return candidate
    return None


class _Weights(TorchFunctionMode):
    """Notes the weight and the bias with which a layer calls its function."""

    kind: type[_Plain] | None = None
    weight: Tensor
    bias: Tensor | None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **(kwargs or {})}
        if func in _FUNCTIONS:
            self.kind = _FUNCTIONS[func]
            self.weight, self.bias = named["weight"], named.get("bias")
        return func(*args, **(kwargs or {}))


def _candidates(module: _Plain, seen: _Weights) -> Iterator[_Plain]:
    if isinstance(module, nn.Linear):
        shape = (module.in_features, module.out_features)
        yield _filled(nn.Linear(*shape, device="meta", bias=seen.bias is not None), module, seen)
        return
    same = [SamePaddedConv2d] if isinstance(module, nn.Conv2d) else []
    for kind in (seen.kind, *same):
        layer: Any = kind
        plain = layer(
            module.in_channels,
            module.out_channels,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups,
            bias=seen.bias is not None,
            padding_mode=module.padding_mode,
            device="meta",
        )
        yield _filled(plain, module, seen)


def _filled(plain: _Plain, module: _Plain, seen: _Weights) -> _Plain:
    trained = any(parameter.requires_grad for parameter in module.parameters())
    plain.weight = nn.Parameter(seen.weight.detach().clone(), trained)
    if seen.bias is not None:
        plain.bias = nn.Parameter(seen.bias.detach().clone(), trained)
    return plain


def _noise(module: _Plain, extra: int) -> Tensor:
    """Return random input for ``module``; its sizes over space, if any, depend on ``extra``."""
    like = next(chain(module.parameters(), module.buffers()), torch.empty(0))
    if isinstance(module, nn.Linear):
        shape: tuple[int, ...] = (2, module.in_features)
    else:
        extents = zip(module.kernel_size, module.dilation, strict=True)
        shape = (2, module.in_channels, *(2 * size * step + extra for size, step in extents))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(extra))
    return noise.to(like)


def _equal(first: Tensor, second: Tensor) -> bool:
    if first.shape != second.shape:
        return False
    tolerance = _TOLERANCE if first.dtype == torch.float64 else 100 * torch.finfo(first.dtype).eps
    return bool((first - second).abs().max() <= tolerance * first.abs().max())
