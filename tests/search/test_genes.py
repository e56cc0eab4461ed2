from types import MappingProxyType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnsplitter.errors import SettingsError
from cnnsplitter.search.genes import GeneMap, start_population
from contracts import ToyChannels

SIMCNN = (64, 64, 128, 128, *[256] * 3, *[512] * 6)
RESCNN_GROUPS = (64, 128, 128, 256, *[512] * 5)


def random_map(widths: tuple[int, ...], classes: int = 2, seed: int = 0) -> GeneMap:
    channels = ToyChannels(widths)
    generator = torch.Generator().manual_seed(seed)
    importance = torch.rand(classes, channels.unit_count, generator=generator)
    return GeneMap.build(channels.groups, importance)


@pytest.mark.parametrize(("widths", "genes"), [(SIMCNN, 940), (RESCNN_GROUPS, 630), ((3,), 3)])
def test_gene_counts_of_the_paper(widths: tuple[int, ...], genes: int) -> None:
    found = random_map(widths)
    assert found.gene_count == genes
    assert sorted(set(found.gene_of_unit[0].tolist())) == list(range(genes))


@settings(max_examples=30, deadline=None)
@given(widths=st.lists(st.integers(1, 300), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_genes_are_equal_parts_of_each_group_in_importance_order(
    widths: list[int], seed: int
) -> None:
    channels = ToyChannels(tuple(widths))
    generator = torch.Generator().manual_seed(seed)
    # few values, so that ties are common
    importance = torch.randint(0, 50, (3, channels.unit_count), generator=generator).float()
    found = GeneMap.build(channels.groups, importance)
    for owner in range(3):
        start = 0
        for group in channels.groups:
            values = importance[owner, group.units].tolist()
            ranked = sorted(range(len(values)), key=lambda i: (-values[i], i))
            genes = found.gene_of_unit[owner, group.units][torch.tensor(ranked)]
            parts = torch.arange(len(values)).tensor_split(found.sizes[group.name])
            expected = torch.cat([torch.full_like(p, start + i) for i, p in enumerate(parts)])
            assert torch.equal(genes, expected)
            start += found.sizes[group.name]


def test_expand_switches_each_gene_for_its_own_class() -> None:
    found = random_map((12, 20), classes=3)
    genes = torch.rand(3, 5, found.gene_count, generator=torch.Generator().manual_seed(1)) < 0.5
    keep = found.expand(genes)
    assert keep.shape == (3, 5, 32)
    for owner in range(3):
        assert torch.equal(keep[owner], genes[owner][:, found.gene_of_unit[owner]])


def test_start_population_holds_the_drawn_shares() -> None:
    found = random_map((64, 300))
    ratios = {"conv0": (0.2, 0.5), "conv1": (1.0,)}
    start = start_population(found, ratios, 50, torch.Generator().manual_seed(0))
    assert start.shape == (2, 50, 110)
    assert set(start[..., :10].sum(2).flatten().tolist()) == {2, 5}
    assert start[..., 10:].all()


def test_start_population_keeps_at_least_one_gene() -> None:
    start = start_population(random_map((64,)), {"conv0": (0.01,)}, 9, torch.Generator())
    assert (start.sum(2) == 1).all()


def test_important_genes_are_drawn_in_proportion_to_their_weight() -> None:
    found = random_map((64,), classes=1)
    start = start_population(found, {"conv0": (0.1,)}, 40_000, torch.Generator().manual_seed(0))
    weights = torch.exp(torch.arange(10, 0, -1, dtype=torch.float64) / 10)
    share = start[0].double().mean(0)
    torch.testing.assert_close(share, weights / weights.sum(), atol=0.006, rtol=0)


def test_draws_of_several_genes_match_successive_draws() -> None:
    found = random_map((4,), classes=1)
    start = start_population(found, {"conv0": (0.5,)}, 40_000, torch.Generator().manual_seed(0))
    weights = torch.exp(torch.arange(4, 0, -1, dtype=torch.float64) / 10).expand(40_000, 4)
    drawn = weights.multinomial(2, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(40_000, 4, dtype=torch.float64).scatter_(1, drawn, 1.0).mean(0)
    torch.testing.assert_close(start[0].double().mean(0), expected, atol=0.012, rtol=0)


def test_a_group_without_ratios_is_named() -> None:
    none: MappingProxyType[str, tuple[float, ...]] = MappingProxyType({})
    with pytest.raises(SettingsError, match="no start ratios for layer 'conv0'"):
        start_population(random_map((4,)), none, 2, torch.Generator())


@given(widths=st.lists(st.integers(1, 60), min_size=1, max_size=4), seed=st.integers(0, 999))
def test_compress_undoes_expand(widths: list[int], seed: int) -> None:
    found = random_map(tuple(widths), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    genes = torch.rand(2, found.gene_count, generator=generator) < 0.5
    assert torch.equal(found.compress(found.expand(genes[:, None])[:, 0]), genes)
