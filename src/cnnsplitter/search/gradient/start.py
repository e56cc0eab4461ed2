"""Where the logits of a gradient search start."""

import torch
from torch import Generator, Tensor

from cnnsplitter.search.base import MaskedScorer, SearchProblem
from cnnsplitter.search.budget import Budget
from cnnsplitter.search.gradient.settings import GradientSettings

_TINY = 1e-12


def start_logits(
    settings: GradientSettings,
    problem: SearchProblem,
    masked: MaskedScorer,
    budget: Budget,
    generator: Generator,
) -> Tensor:
    """Return float32[classes, units] with mean 0 and variance 1 in each class.

    Worth per cost spreads over orders of magnitude, so its logarithm is taken.
    """
    if settings.start == "random":
        return torch.randn(problem.importance.shape, generator=generator)
    if settings.start == "taylor":
        worth = taylor(masked, settings, problem.importance.shape, generator)
    else:
        worth = _comparable(problem)
    logits = (worth / budget.prices() + _TINY).log()
    centred = logits - logits.mean(dim=1, keepdim=True)
    return (centred / (logits.std(dim=1, keepdim=True) + _TINY)).float()


def taylor(
    masked: MaskedScorer, settings: GradientSettings, shape: torch.Size, generator: Generator
) -> Tensor:
    """Return float64[classes, units], the mean square of a score's derivative by each mask.

    A first-order estimate of what dropping a unit changes (Molchanov et al., Pruning Convolutional
    Neural Networks for Resource Efficient Inference), of the class's own score on images of the
    class and on its hard negatives.
    """
    squares = torch.zeros(shape, dtype=torch.float64)
    counts = torch.zeros(shape[0], dtype=torch.float64)
    for _ in range(-(-settings.start_pairs // settings.pairs)):
        pairs = settings.draw(masked, generator)
        owner = pairs.classes.flatten()
        images = pairs.images.repeat_interleave(pairs.classes.shape[1])
        with torch.enable_grad():
            masks = torch.ones(len(owner), shape[1], requires_grad=True)
            (slopes,) = torch.autograd.grad(masked(images, owner, masks).sum(), masks)
        squares.index_add_(0, owner, slopes.double().square())
        counts += owner.bincount(minlength=len(counts))
    return squares / counts.clamp(min=1)[:, None]


def _comparable(problem: SearchProblem) -> Tensor:
    """Return the importance relative to the mean of each unit's layer, which can be compared."""
    worth = problem.importance.double()
    for group in problem.channels.groups:
        part = worth[:, group.units]
        worth[:, group.units] = part / part.mean(dim=1, keepdim=True).clamp(min=_TINY)
    return worth
