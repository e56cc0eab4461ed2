"""Genes: the units that one bit of the search switches (method.md sections 2.2 and 2.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Generator, Tensor

from cnnsplitter.errors import SettingsError
from cnnsplitter.search.base import UnitGroup

WIDE_GROUP = 256
"""Units from which a group is cut into 100 genes instead of 10."""


@dataclass(frozen=True, eq=False)
class GeneMap:
    """Which gene switches which unit, for every class.

    Attributes:
        gene_of_unit: int64[classes, units]. A group's genes are consecutive numbers, the same for
            all classes; the first holds the group's most important units.
        sizes: Group name to its number of genes, in the order of the genes.
    """

    gene_of_unit: Tensor
    sizes: Mapping[str, int]

    @classmethod
    def build(cls, groups: Sequence[UnitGroup], importance: Tensor) -> Self:
        """Sort each group's units by importance and cut them into equal parts, for each class.

        Args:
            groups: They partition the units.
            importance: float32[classes, units]; equal values keep the order of the units.
        """
        gene_of_unit = torch.empty(importance.shape, dtype=torch.int64)
        sizes: dict[str, int] = {}
        for group in groups:
            count = _gene_count(len(group.units))
            order = importance[:, group.units].argsort(dim=1, descending=True, stable=True)
            genes = _equal_parts(len(group.units), count) + sum(sizes.values())
            gene_of_unit.scatter_(1, group.units[order], genes.expand_as(order))
            sizes[group.name] = count
        return cls(gene_of_unit, sizes)

    @property
    def gene_count(self) -> int:
        """Number of genes of one individual."""
        return sum(self.sizes.values())

    def expand(self, genes: Tensor) -> Tensor:
        """Return the units that the genes switch on.

        Args:
            genes: bool[classes, population, genes].

        Returns:
            bool[classes, population, units].
        """
        index = self.gene_of_unit[:, None].expand(-1, genes.shape[1], -1)
        return genes.gather(2, index)

    def compress(self, keep: Tensor) -> Tensor:
        """Return the genes nearest to selections: on where at least half of the units are kept.

        Args:
            keep: bool[classes, units].

        Returns:
            bool[classes, genes]; of selections that `expand` has made, the genes they came from.
        """
        shape = (len(keep), self.gene_count)
        units, kept = torch.zeros(shape), torch.zeros(shape)
        units.scatter_add_(1, self.gene_of_unit, torch.ones(keep.shape))
        kept.scatter_add_(1, self.gene_of_unit, keep.float())
        return 2 * kept >= units


def start_population(
    genes: GeneMap,
    ratios: Mapping[str, tuple[float, ...]],
    population: int,
    generator: Generator,
) -> Tensor:
    """Draw individuals that favour important genes (method.md section 2.4).

    For each individual and group a keep-ratio is drawn from the group's list, then that share of
    the group's genes without replacement with probability proportional to exp(rank / 10), where
    the most important gene has the highest rank. At least one gene per group is drawn.

    Args:
        genes: The genes.
        ratios: Group name to the keep-ratios to draw from, each in (0, 1].
        population: Individuals per class.
        generator: Source of randomness.

    Returns:
        bool[classes, population, genes].

    Raises:
        SettingsError: A group has no ratios.
    """
    shape = (len(genes.gene_of_unit), population)
    parts = [
        _draw_genes(shape, size, _ratios_of(name, ratios), generator)
        for name, size in genes.sizes.items()
    ]
    return torch.cat(parts, dim=2)


def _ratios_of(group: str, ratios: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    if not ratios.get(group):
        raise SettingsError(f"no start ratios for layer {group!r}; add them to start_ratios")
    return ratios[group]


def _draw_genes(
    shape: tuple[int, int], size: int, ratios: tuple[float, ...], generator: Generator
) -> Tensor:
    """Return bool[*shape, size]."""
    pick = torch.randint(len(ratios), shape, generator=generator)
    wanted = (torch.tensor(ratios, dtype=torch.float64)[pick] * size).round().clamp(1, size)
    # Adding Gumbel noise to log-weights and taking the top k draws without replacement in
    # proportion to the weights (Yellott 1977); -log of an exponential variate is Gumbel noise.
    noise = torch.empty(*shape, size, dtype=torch.float64).exponential_(generator=generator).log()
    log_weights = torch.arange(size, 0, -1, dtype=torch.float64) / 10
    place = (log_weights - noise).argsort(dim=2, descending=True, stable=True).argsort(dim=2)
    return place < wanted[..., None]


def _gene_count(units: int) -> int:
    return min(units, 10 if units < WIDE_GROUP else 100)


def _equal_parts(length: int, parts: int) -> Tensor:
    """Return int64[length]: the part of each position; the first parts take the remainder."""
    sizes = torch.full((parts,), length // parts)
    sizes[: length % parts] += 1
    return torch.arange(parts).repeat_interleave(sizes)
