"""Makes sure that no selection is run on the search images twice."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

TRIES = 10
"""Mutations after which a child that stays a known selection becomes a copy."""

DIGEST_SIZE = 16


@dataclass(frozen=True, eq=False)
class Brood:
    """A population and what has to be run of it.

    Attributes:
        genes: bool[classes, population, genes].
        selections: bool[classes, population, units].
        fresh: bool[classes, population], True where the selection was never seen before.
        source: int64[classes, population], the individual that has the same selection and is fresh
            or an elite: itself, or for a copy the one copied.
        seen: Digests of all selections seen, with those of this population.
    """

    genes: Tensor
    selections: Tensor
    fresh: Tensor
    source: Tensor
    seen: frozenset[bytes]


def make_new(
    genes: Tensor,
    elites: int,
    seen: frozenset[bytes],
    express: Callable[[Tensor], Tensor],
    mutate: Callable[[Tensor], Tensor],
) -> Brood:
    """Mutate children until their selections are new; those that stay known copy an elite.

    Args:
        genes: bool[classes, population, genes], elites first.
        elites: Number of elites per class; their selections have been seen.
        seen: Digests of the selections seen.
        express: Turns genes into valid selections bool[classes, population, units].
        mutate: Changes bool[k, genes].
    """
    genes, selections, found = genes.clone(), express(genes), set(seen)
    children = (torch.arange(genes.shape[1]) >= elites).expand(genes.shape[:2])
    fresh = _note_new(selections, children, found)
    waiting = children & ~fresh
    for _ in range(TRIES):
        if not waiting.any():
            break
        genes[waiting] = mutate(genes[waiting])
        selections = express(genes)
        new = _note_new(selections, waiting, found)
        fresh, waiting = fresh | new, waiting & ~new
    # in a start population, which has no elites, the first individual is always fresh
    slots = torch.arange(genes.shape[1])
    source = torch.where(waiting, slots % max(elites, 1), slots)
    genes = genes.gather(1, source[..., None].expand_as(genes))
    selections = selections.gather(1, source[..., None].expand_as(selections))
    return Brood(genes, selections, fresh, source, frozenset(found))


def _note_new(selections: Tensor, waiting: Tensor, found: set[bytes]) -> Tensor:
    """Add the waiting selections to ``found``; return bool[classes, population] of the new ones."""
    packed = np.packbits(selections.numpy(), axis=2)
    new = torch.zeros_like(waiting)
    for owner, slot in waiting.nonzero().tolist():
        key = owner.to_bytes(4, "little") + packed[owner, slot].tobytes()
        digest = blake2b(key, digest_size=DIGEST_SIZE).digest()
        if digest not in found:
            found.add(digest)
            new[owner, slot] = True
    return new
