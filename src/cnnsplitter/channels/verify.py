"""Proof by trial that a channel map is right: mask, cut, run both, compare."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnsplitter.authorship import class_of
from cnnsplitter.channels.cutting import cut_down
from cnnsplitter.channels.masking import masked
from cnnsplitter.channels.shadow import RUN_ERRORS
from cnnsplitter.channels.tracking import Tracker, tracked
from cnnsplitter.errors import UnsupportedModelError

if TYPE_CHECKING:
    from cnnsplitter.channels.map import ChannelMap

SHARE = 0.5
TOLERANCE = 1e-3
DIFFERENT = "masked and cut give different values"


@dataclass(frozen=True)
class Fault:
    """Where a cut network goes wrong.

    Attributes:
        module: Path of the innermost module at fault, "" for the network's own forward.
        reason: What is wrong there.
    """

    module: str
    reason: str


@torch.no_grad()
def find_fault(model: nn.Module, channels: "ChannelMap", example: Tensor) -> Fault | None:
    """Return where the cut network first goes wrong, None if it equals the masked one.

    Both forms run on random weights, because fresh ones (zero gains, equal statistics) would hide
    a wrong path; a random half of every group of units is kept. The model is not touched. What
    differs is tried again in double precision: deep networks without norms, and those that
    multiply branches, grow rounding errors until the values have nothing in common.

    Args:
        model: The network.
        channels: Its channel map.
        example: Input float[B, C, H, W]; only shape, type and device matter.

    Raises:
        UnsupportedModelError: The network gives other outputs every time.
    """
    with torch.random.fork_rng(devices=[]):
        fault = _find_fault(model, channels, example)
        if fault is None or fault.reason != DIFFERENT or example.dtype == torch.float64:
            return fault
        try:
            return _find_fault(model, channels, example.double())
        except RUN_ERRORS:  # the forward, or the device, knows single precision only
            return fault


def _find_fault(model: nn.Module, channels: "ChannelMap", example: Tensor) -> Fault | None:
    keep = channels.random_selection(SHARE, generator=torch.Generator().manual_seed(0)).keep
    trial, x = _random_copy(model, example)
    with masked(trial, channels, keep.to(x)):
        expected = tree_leaves(trial(x))
    cut_down(trial, channels, keep)
    with tracked(trial) as tracker:
        try:
            found = tree_leaves(trial(x))
        except RUN_ERRORS:
            return Fault(tracker.innermost, "a number of channels is written into the forward")
    if _all_agree(expected, found):
        return None
    wide, _ = _random_copy(model, example)
    with masked(wide, channels, keep.to(x)), tracked(wide, record=True) as recorded:
        again = tree_leaves(wide(x))
    if not _all_agree(expected, again):
        raise UnsupportedModelError(
            f"{class_of(model)} gives other outputs every time, also in evaluation mode; "
            "pass training=self.training to its functional dropout"
        )
    with tracked(trial, record=True) as thin:
        trial(x)
    return Fault(_first_difference(recorded, thin), DIFFERENT)


def _random_copy(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """Return a copy with random weights and an input for it, the same ones every time."""
    generator = torch.Generator(example.device).manual_seed(0)
    trial = copy.deepcopy(model).eval().requires_grad_(False).to(example.dtype)
    _randomise(trial, generator)
    x = torch.empty(2, *example.shape[1:], dtype=example.dtype, device=example.device)
    return trial, x.normal_(generator=generator)


def _first_difference(wide: Tracker, thin: Tracker) -> str:
    pairs = zip(wide.values, thin.values, strict=False)
    return next((path for (path, a), (_, b) in pairs if not _is_part_of(b, a)), "")


def _is_part_of(narrow: Tensor, wide: Tensor) -> bool:
    """Tell whether every channel of ``narrow`` is one of ``wide``; True if it cannot be told."""
    if narrow.ndim != wide.ndim or not narrow.is_floating_point():
        return True
    axes = [a for a in range(wide.ndim) if wide.shape[a] != narrow.shape[a]]
    if len(axes) > 1 or not narrow.numel():
        return True
    if not axes:
        return _agree(wide, narrow)
    one, other = (t.movedim(axes[0], 0).flatten(1) for t in (narrow, wide))
    nearest = torch.stack([(other - channel).abs().amax(1).min() for channel in one])
    return bool((nearest <= TOLERANCE * wide.abs().max()).all())


def _all_agree(expected: list[Any], found: list[Any]) -> bool:
    return all(_agree(*pair) for pair in zip(expected, found, strict=True))


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
        # In place, because a second copy of the largest weight would be the peak of the memory.
        tensor.normal_(generator=generator)
        if name.endswith("running_var"):
            tensor.abs_().add_(0.5)
        elif tensor.ndim > 1:
            tensor.mul_((2 / max(1, tensor[0].numel())) ** 0.5)
        elif name.endswith("weight"):
            tensor.mul_(0.2).add_(1)
        else:
            tensor.mul_(0.2)
