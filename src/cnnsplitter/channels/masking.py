"""Running a network as if units were not there, by hooks where channels are read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from cnnsplitter.channels.map import ChannelMap

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@contextmanager
def masked(model: nn.Module, channels: "ChannelMap", mask: Tensor) -> Iterator[None]:
    """Multiply what every reading layer sees by ``mask``: float[units], or float[B, units].

    A unit is off where its readers read it: zeroing it before a norm would not remove it.
    """
    ones = torch.ones(*mask.shape[:-1], 1, dtype=mask.dtype, device=mask.device)
    with_frozen = torch.cat([mask, ones], dim=-1)
    handles = []
    try:
        for reader in channels.readers:
            module = model.get_submodule(reader.name)
            axis = -1 if isinstance(module, nn.Linear) else 1
            factor = with_frozen[..., reader.units.to(mask.device)]
            hook = _MaskInput(factor, axis)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for norm in channels.norms:
            module = model.get_submodule(norm.module)
            kept = _KeptStatistics(with_frozen[..., norm.channels.to(mask.device)], norm.axis)
            handles.append(module.register_forward_pre_hook(kept.before, with_kwargs=True))
            handles.append(module.register_forward_hook(kept.after))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _MaskInput:
    def __init__(self, factor: Tensor, axis: int) -> None:
        self.factor, self.axis = factor, axis

    def __call__(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        return _with_input(args, kwargs, lambda x: x * _aligned(self.factor, x, self.axis))


class _KeptStatistics:
    """Makes a norm over all C channels act as one over the kept ones.

    Dropped channels are set to the mean of the kept ones, and the distances from it are stretched
    by sqrt(C / kept), so that mean and variance over all channels are those over the kept ones;
    afterwards the stretch is undone around the norm's bias.
    """

    def __init__(self, factor: Tensor, axis: int) -> None:
        self.factor, self.axis = factor, axis

    def before(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        return _with_input(args, kwargs, self._stretched)

    def _stretched(self, x: Tensor) -> Tensor:
        factor = _aligned(self.factor, x, self.axis)
        count = factor.sum(self.axis, keepdim=True)
        mean = (x * factor).sum(self.axis, keepdim=True) / count
        stretch = (factor.shape[self.axis] / count).sqrt()
        return mean + (x - mean) * factor * stretch

    def after(self, module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        factor = _aligned(self.factor, y, self.axis)
        count = factor.sum(self.axis, keepdim=True)
        shrink = (count / factor.shape[self.axis]).sqrt()
        bias: Any = getattr(module, "bias", None)
        if bias is None:
            return y * shrink
        offset = _aligned(bias, y, self.axis)
        return offset + (y - offset) * shrink


def _with_input(
    args: Args, kwargs: Kwargs, change: Callable[[Tensor], Tensor]
) -> tuple[Args, Kwargs]:
    """Change the input of a layer, which may be given by its name."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, {**kwargs, "input": change(kwargs["input"])}


def _aligned(factor: Tensor, x: Tensor, axis: int) -> Tensor:
    """View ``factor`` [C] or [B, C] so that it broadcasts along ``axis`` of ``x``."""
    axis = axis % x.ndim
    shape = [1] * x.ndim
    shape[axis] = factor.shape[-1]
    if factor.ndim == 2:
        shape[0] = factor.shape[0]
    return factor.view(shape)
