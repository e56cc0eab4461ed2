"""Compact files: weights rounded to 8 bits, with one scale per output channel.

A weight differs from what was saved by at most half of a 127th of its channel's largest. Biases,
norms and whatever else has a single axis stay as they are.
"""

import torch
from torch import Tensor

from cnnsplitter.errors import StorageError
from cnnsplitter.storage.packing import Tensors

SCALE = ".scale8"
"""What follows a rounded tensor's name in the name of its scales."""
_LARGEST = 127


def compress(tensors: Tensors) -> Tensors:
    """Round every floating tensor of two or more axes; the scales are added beside it."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.ndim > 1 and tensor.isfinite().all():
            found[name], found[name + SCALE] = _rounded(tensor.detach())
        else:
            found[name] = tensor
    return found


def expand(tensors: Tensors) -> Tensors:
    """Undo ``compress`` but for the rounding; other tensors are left as they are.

    Raises:
        StorageError: Scales that do not fit their tensor.
    """
    scales = {name for name in tensors if name.endswith(SCALE)}
    found = {name: tensor for name, tensor in tensors.items() if name not in scales}
    for name in sorted(scales):
        rounded, scale = found.get(name.removesuffix(SCALE)), tensors[name]
        if rounded is None or rounded.dtype != torch.int8 or not scale.is_floating_point():
            raise StorageError(f"tensor {name!r} has no rounded tensor beside it; save it anew")
        if scale.shape != (*rounded.shape[:1], *(1 for _ in rounded.shape[1:])):
            raise StorageError(f"tensor {name!r} does not fit the one that it scales; save it anew")
        found[name.removesuffix(SCALE)] = rounded.to(scale.dtype) * scale
    return found


def _rounded(tensor: Tensor) -> tuple[Tensor, Tensor]:
    axes = tuple(range(1, tensor.ndim))
    scale = tensor.abs().amax(axes, keepdim=True) / _LARGEST
    steps = torch.where(scale > 0, tensor / scale, 0.0)
    return steps.round().to(torch.int8), scale
