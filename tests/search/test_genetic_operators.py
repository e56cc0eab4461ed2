import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnsplitter.search.operators import choose_elites, choose_parents, cross, mutate


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_elites_are_the_champion_then_the_best() -> None:
    fitness = torch.tensor([[0.1, 0.9, 0.5, 0.9], [0.3, 0.0, 0.0, 0.3]], dtype=torch.float64)
    elites = choose_elites(fitness, torch.tensor([3, 3]), 3)
    assert elites.tolist() == [[3, 1, 2], [3, 0, 1]]


def test_parents_are_different_individuals() -> None:
    fitness = torch.rand(3, 12, generator=seeded()).double()
    parents = choose_parents(fitness, 12, seeded(1))
    assert parents.sort(dim=1).values.tolist() == [list(range(12))] * 3


def test_parents_are_drawn_by_linear_rank() -> None:
    fitness = torch.tensor([[0.2, 0.9, 0.5]], dtype=torch.float64).expand(30_000, 3)
    chosen = choose_parents(fitness, 1, seeded())
    share = chosen.flatten().bincount(minlength=3).double() / 30_000
    expected = torch.tensor([1, 3, 2], dtype=torch.float64) / 6
    torch.testing.assert_close(share, expected, atol=0.01, rtol=0)


@settings(max_examples=30, deadline=None)
@given(parents=st.integers(2, 6), count=st.integers(1, 9), genes=st.integers(1, 9))
def test_children_switch_parents_at_one_point(parents: int, count: int, genes: int) -> None:
    pool = torch.rand(2, parents, genes, generator=seeded(3)) < 0.5
    children = cross(pool, count, seeded(parents))
    assert children.shape == (2, count, genes)
    for owner in range(2):
        for i, child in enumerate(children[owner]):
            first, second = pool[owner, i % parents], pool[owner, (i + 1) % parents]
            points = range(1, max(genes, 2))
            assert any(torch.equal(child, torch.cat([first[:at], second[at:]])) for at in points)


def test_crossover_points_cover_the_genes() -> None:
    pool = torch.tensor([[[False] * 5, [True] * 5]])
    children = cross(pool, 400, seeded())
    first_kind = children[0, ::2].sum(1)
    assert sorted(set(first_kind.tolist())) == [1, 2, 3, 4]


def test_flip_changes_exactly_the_share() -> None:
    genes = torch.rand(2, 7, 40, generator=seeded()) < 0.5
    before = genes.clone()
    changed = mutate(genes, 0.05, "flip", seeded(1))
    assert ((changed ^ genes).sum(2) == 2).all()
    assert torch.equal(genes, before)
    assert ((mutate(genes, 0.001, "flip", seeded(1)) ^ genes).sum(2) == 1).all()
    assert torch.equal(mutate(genes, 1.0, "flip", seeded(1)), ~genes)
    assert torch.equal(mutate(genes, 0.0, "flip", seeded(1)), genes)


def test_redraw_changes_half_of_the_share() -> None:
    genes = torch.rand(1, 4000, 40, generator=seeded()) < 0.5
    changes = (mutate(genes, 0.1, "redraw", seeded(1)) ^ genes).sum(2).double()
    assert changes.max() == 4
    assert abs(changes.mean().item() - 2) < 0.1
