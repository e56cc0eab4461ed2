"""Genetic operators: pure functions on bool[classes, population, genes] (method.md section 2.5)."""

from typing import Literal

import torch
from torch import Generator, Tensor

MutationKind = Literal["flip", "redraw"]


def choose_elites(fitness: Tensor, champion: Tensor, count: int) -> Tensor:
    """Return the individuals that live on unchanged: the champion's members first, then the best.

    Args:
        fitness: float64[classes, population].
        champion: int64[classes], the members of the best ensemble.
        count: Individuals per class.

    Returns:
        int64[classes, count]; of equal ones the earlier.
    """
    ranked = fitness.scatter(1, champion[:, None], torch.inf)
    return ranked.argsort(dim=1, descending=True, stable=True)[:, :count]


def choose_parents(fitness: Tensor, count: int, generator: Generator) -> Tensor:
    """Draw different parents with probability proportional to their rank (linear ranking).

    Args:
        fitness: float64[classes, population].
        count: Parents per class.
        generator: Source of randomness.

    Returns:
        int64[classes, count], in random order.
    """
    population = fitness.shape[1]
    order = fitness.argsort(dim=1, stable=True)
    rank = torch.arange(1, population + 1, dtype=torch.float64).expand_as(order)
    weights = torch.empty_like(rank).scatter_(1, order, rank)
    return weights.multinomial(count, replacement=False, generator=generator)


def cross(parents: Tensor, count: int, generator: Generator) -> Tensor:
    """Return children: the genes of one parent up to a random point, of the next one after it.

    Args:
        parents: bool[classes, parents, genes].
        count: Children per class; child i comes from the parents i and i + 1, cyclically.
        generator: Source of randomness.

    Returns:
        bool[classes, count, genes].
    """
    classes, size, genes = parents.shape
    first = torch.arange(count) % size
    point = torch.randint(1, max(genes, 2), (classes, count, 1), generator=generator)
    return torch.where(
        torch.arange(genes) < point, parents[:, first], parents[:, (first + 1) % size]
    )


def mutate(genes: Tensor, share: float, kind: MutationKind, generator: Generator) -> Tensor:
    """Change a share of each individual's genes, at least one unless ``share`` is 0.

    Args:
        genes: bool[..., genes].
        share: Share of the genes that is chosen, between 0 and 1.
        kind: ``"flip"`` changes every chosen gene; ``"redraw"`` is the published kind, which draws
            a new value for it, so that half of the choices change nothing (method.md 4, item 5).
        generator: Source of randomness.

    Returns:
        bool[..., genes], a new tensor.
    """
    if share == 0:
        return genes.clone()
    count = max(1, round(share * genes.shape[-1]))
    order = torch.rand(genes.shape, generator=generator).argsort(dim=-1)
    chosen = torch.zeros_like(genes).scatter_(-1, order[..., :count], True)
    if kind == "flip":
        return genes ^ chosen
    return torch.where(chosen, torch.rand(genes.shape, generator=generator) < 0.5, genes)
