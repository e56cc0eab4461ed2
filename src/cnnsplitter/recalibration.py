"""Batch-norm recalibration: statistics of what a narrow network sees, in place of the strong one's.

Without the dropped kernels the later layers see other means and variances than those that the
strong model's norms were trained with; measuring them again costs a pass over some images and
changes no weight.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, require_seed
from cnnsplitter.inference import device_of, in_more_parts, to_device
from cnnsplitter.nets import eval_mode

M = TypeVar("M", bound=nn.Module)
_BatchNorm = nn.modules.batchnorm._BatchNorm

IMAGES = 2000
"""Images that statistics are measured on by default."""


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether ``model`` has running statistics that can be measured again."""
    return any(True for _ in norms_of(model))


def recalibrate(
    model: M, data: ImageSet, *, seed: int, images: int = IMAGES, batch_size: int = 200
) -> M:
    """Return a copy of ``model`` whose batch norms have the statistics of ``data``.

    They are the mean over batches, in one pass in which every norm uses the batch's own
    statistics, as in training. Where a batch does not fit into memory all are halved, and so on.

    Args:
        model: A class module, or any model of this package; left untouched. Without batch norms
            the copy is equal to it.
        data: Training images of all classes that the model will see in use, not of its own alone.
        seed: Of the choice and order of the images.
        images: At most so many of them are used.
        batch_size: Images at a time; those that do not fill a batch are left out.

    Raises:
        DataError: Fewer than two images.
        SettingsError: A seed that is none.
        ModelError: Not even two images fit into memory.
    """
    require_seed(seed)
    if len(data) < 2:
        raise DataError(f"{data.images.name}: statistics need at least two images; add some")
    narrow = copy.deepcopy(model)
    if not has_batch_norm(narrow):
        return narrow
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:images]
    chosen, most = data.take(order), min(batch_size, len(order))
    in_more_parts(lambda parts: _measure(narrow, chosen, most // parts), 1, most, least=2)
    return narrow


def _measure(narrow: nn.Module, data: ImageSet, size: int) -> None:
    """Put the statistics of full batches of ``size`` images into the norms."""
    full, device = torch.arange(len(data) // size * size), device_of(narrow)
    with eval_mode(narrow), _measuring(narrow), torch.no_grad():
        for batch, _ in data.take(full).batches(size):
            narrow(to_device(batch, device))


def norms_of(model: nn.Module) -> Iterator[_BatchNorm]:
    """Yield the batch norms that have running statistics."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            yield module


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Let the norms forget their statistics and average those of all batches of the block."""
    momenta = [(norm, norm.momentum) for norm in norms_of(model)]
    for norm, _ in momenta:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in momenta:
            norm.momentum = momentum
