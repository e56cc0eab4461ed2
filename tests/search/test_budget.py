from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.search.budget import Budget
from contracts import ToyChannels, planted_problem
from planted_gradients import with_gradients


def budget(target: Literal["kernels", "multiply-adds"] = "kernels") -> Budget:
    problem = with_gradients(planted_problem(ToyChannels((8, 12, 12), tied=(1, 2))))
    return Budget.of(problem, target)


@given(st.sampled_from(["kernels", "multiply-adds"]), st.floats(0.2, 1), st.integers(0, 2**31))
def test_the_best_units_within_the_budget_are_kept(
    target: Literal["kernels", "multiply-adds"], share: float, seed: int
) -> None:
    own = budget(target)
    logits = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    keep = own.best(logits, share)
    assert (own.share(keep) <= share + 1e-6).all()
    for row, worth in zip(keep, logits, strict=True):
        for group in own.channels.groups:
            assert row[group.units[worth[group.units].argmax()]]
        if not row.all():
            first = worth.masked_fill(row, -torch.inf).argmax()
            more = row.clone()
            more[first] = True
            assert own.share(more) > share


def test_a_budget_that_is_too_small_leaves_one_unit_of_each_layer() -> None:
    keep = budget().best(torch.randn(3, 20), 0.01)
    assert keep.sum(1).tolist() == [2, 2, 2]


def test_the_whole_budget_keeps_everything() -> None:
    assert budget("multiply-adds").best(torch.randn(3, 20), 1.0).all()


def test_prices_are_what_units_cost() -> None:
    assert budget().prices().tolist() == [1] * 8 + [2] * 12
    assert budget("multiply-adds").prices().tolist() == pytest.approx([40] * 20)
