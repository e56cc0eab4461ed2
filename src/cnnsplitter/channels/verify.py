"""Proof by trial that a channel map is right: mask, cut, run both, compare."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.channels.masking import masked

if TYPE_CHECKING:
    from cnnsplitter.channels.map import ChannelMap

SHARE = 0.5
TOLERANCE = 1e-3


def find_fault(model: nn.Module, channels: "ChannelMap", example: Tensor) -> str | None:
    """Return the path of the module in which the cut network fails, None if the map is right.

    Both forms run on random weights, because fresh ones (zero gains, equal statistics) would hide
    a wrong path; a random half of every group of units is kept. The model is not touched.

    Returns:
        None if masked and cut agree on every output; the path of the innermost module that fails
        to run; "?" if both run and differ.
    """
    generator = torch.Generator().manual_seed(0)
    trial = copy.deepcopy(model).eval().requires_grad_(False)
    _randomise(trial, generator)
    selection = channels.random_selection(SHARE, generator=generator)
    noise = torch.randn(2, *example.shape[1:], generator=generator)
    x = noise.to(device=example.device, dtype=example.dtype)
    with torch.no_grad():
        with masked(trial, channels, selection.keep.to(x)):
            expected = tree_leaves(trial(x))
        narrow = narrow_copy(trial, channels, selection.keep)
        tracker = _Tracker(narrow)
        try:
            found = tree_leaves(narrow(x))
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return tracker.innermost
    pairs = zip(expected, found, strict=True)
    return None if all(_agree(*pair) for pair in pairs) else "?"


class _Tracker:
    """Knows which module is running."""

    def __init__(self, net: nn.Module) -> None:
        self.path: list[str] = [""]
        for name, module in net.named_modules():
            if name:
                module.register_forward_pre_hook(lambda *_, name=name: self.path.append(name))
                module.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self.path.pop()

    @property
    def innermost(self) -> str:
        return self.path[-1]


def _agree(expected: Any, found: Any) -> bool:
    if not isinstance(expected, Tensor):
        return bool(expected == found)
    if expected.shape != found.shape:
        return False
    scale = expected.abs().max()
    close = (expected - found).abs().max() <= TOLERANCE * scale
    return bool(close) and bool(scale.isfinite())


def _randomise(net: nn.Module, generator: torch.Generator) -> None:
    tensors: dict[str, Tensor] = dict(net.named_parameters()) | dict(net.named_buffers())
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith("running_var"):
            noise = noise.abs() + 0.5
        elif tensor.ndim > 1:
            noise *= (2 / max(1, tensor[0].numel())) ** 0.5
        elif name.endswith("weight"):
            noise = 1 + 0.2 * noise
        else:
            noise *= 0.2
        tensor.copy_(noise)
