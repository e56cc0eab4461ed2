import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.objective import Objective, jaccard, kept_share, mean_difference

UNIT = st.floats(0, 1)


def value(number: float) -> torch.Tensor:
    return torch.tensor([number], dtype=torch.float64)


def fitness(objective: Objective, a: float, d: float, k: float, best: float) -> float:
    return objective.fitness(value(a), value(d), value(k), best).item()


def sets_jaccard(left: torch.Tensor, right: torch.Tensor, kernels: list[int]) -> float:
    a, b = (
        {(unit, i) for unit in keep.nonzero().flatten().tolist() for i in range(kernels[unit])}
        for keep in (left, right)
    )
    return len(a & b) / len(a | b) if a | b else 1.0


@given(seed=st.integers(0, 2**31), kernels=st.lists(st.integers(1, 4), min_size=1, max_size=9))
def test_jaccard_equals_that_of_kernel_sets(seed: int, kernels: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(4, len(kernels), generator=generator) < 0.5
    found = jaccard(keep, torch.tensor(kernels))
    expected = [[sets_jaccard(a, b, kernels) for b in keep] for a in keep]
    assert found.tolist() == expected
    pairs = [expected[i][j] for i in range(4) for j in range(i)]
    difference = mean_difference(keep, torch.tensor(kernels))
    assert difference == pytest.approx(1 - sum(pairs) / 6, abs=1e-12)


def test_kept_share_counts_kernels_not_units() -> None:
    keep = torch.tensor([[True, False, False], [False, True, True]])
    assert kept_share(keep, torch.tensor([2, 1, 1])).tolist() == [0.5, 0.5]
    assert kept_share(keep[None], torch.tensor([3, 1, 0])).tolist() == [[0.75, 0.25]]


@given(a=UNIT, d=UNIT, k=UNIT, best=UNIT)
def test_paper_form(a: float, d: float, k: float, best: float) -> None:
    found = fitness(Objective.paper(0.9, 0.95), a, d, k, best)
    assert found == pytest.approx((0.9 + max(0, 0.95 - best)) * a + 0.1 * d)


@given(a=UNIT, d=UNIT, k=UNIT, best=UNIT)
def test_normalised_form_is_a_weighted_mean(a: float, d: float, k: float, best: float) -> None:
    found = fitness(Objective(0.9, 0.1, 0.2, gamma=0.5), a, d, k, best)
    parts = (a, d, 1 - k)
    assert min(parts) - 1e-12 <= found <= max(parts) + 1e-12


def test_measure_is_the_fitness_without_growth() -> None:
    objective = Objective(0.6, 0.3, 0.3, gamma=0.9)
    assert objective.measure(0.5, 0.2, 0.4) == pytest.approx(
        fitness(objective, 0.5, 0.2, 0.4, best=0.9)
    )
    assert objective.measure(0.5, 0.2, 0.4) != pytest.approx(
        fitness(objective, 0.5, 0.2, 0.4, best=0.1)
    )


def test_paper_form_measures_accuracy() -> None:
    assert Objective.paper(0.9, 0.9).measure(0.5, 1.0, 0.1) == 0.5


def test_smaller_is_better_by_default_and_not_in_the_paper_form() -> None:
    default, paper = Objective(), Objective.paper(0.9, 0.9)
    assert fitness(default, 0.9, 0.5, 0.2, 1) > fitness(default, 0.9, 0.5, 0.8, 1)
    assert fitness(paper, 0.9, 0.5, 0.2, 1) == fitness(paper, 0.9, 0.5, 0.8, 1)
