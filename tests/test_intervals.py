from collections.abc import Mapping
from statistics import mean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from cnnsplitter.evaluation import Comparison
from cnnsplitter.intervals import (
    COVERAGE,
    Interval,
    f1_interval,
    mcnemar,
    paired_changes,
    share_interval,
)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_interval_of_a_share_equals_scipy(size: int, share: float) -> None:
    hits = round(share * size)
    ours = share_interval(hits, size)
    theirs = binomtest(hits, size).proportion_ci(COVERAGE, method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert ours.low <= ours.estimate <= ours.high


def test_nothing_is_known_without_images() -> None:
    assert vars(share_interval(0, 0)) == {"estimate": 0, "low": 0, "high": 1}
    assert f1_interval(0, 0, 0).high == 1


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_the_interval_of_f1_holds_the_estimate(hits: int, alarms: int, missed: int) -> None:
    found = f1_interval(hits, hits + alarms, hits + missed)
    total = 2 * hits + alarms + missed
    assert found.estimate == pytest.approx(2 * hits / total if total else 0)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@pytest.mark.parametrize(("size", "share"), [(100, 0.7), (100, 0.9), (1000, 0.5)])
def test_intervals_cover_the_truth_as_stated(size: int, share: float) -> None:
    """Exactly for shares; for F1 given how many images are of the class or taken for it."""
    hits = range(size + 1)
    weights = binom.pmf(hits, size, share)
    held = [share_interval(int(h), size) for h in hits]
    covered = sum(w for i, w in zip(held, weights, strict=True) if i.low <= share <= i.high)
    assert covered == pytest.approx(COVERAGE, abs=0.02)
    f1s = [f1_interval(h, (size + h) / 2, (size + h) / 2) for h in hits]
    truth = 2 * share / (1 + share)
    covered = sum(w for i, w in zip(f1s, weights, strict=True) if i.low <= truth <= i.high)
    assert covered == pytest.approx(COVERAGE, abs=0.02)


def simulated(n: int, generator: torch.Generator) -> Mapping[str, Interval]:
    """The changes from a model with recall 0.5 to one with 0.7 on the first of ten classes."""
    labels = torch.arange(n) % 10
    first, second = labels.clone(), labels.clone()
    draw = torch.rand(n, generator=generator)
    first[(labels == 0) & (draw > 0.5)] = 1
    second[(labels == 0) & (draw > 0.7)] = 1
    first[(labels != 0) & (draw > 0.95)] = 0
    second[(labels != 0) & (draw > 0.98)] = 0
    return paired_changes(labels, first, second, 0)


def test_intervals_of_changes_cover_the_truth_as_stated() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = {name: change.estimate for name, change in simulated(10**6, generator).items()}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for _ in range(200):
        for name, found in simulated(1000, generator).items():
            held[name].append(found.low <= truth[name] <= found.high)
    for name, values in held.items():
        # 200 repetitions leave a standard deviation of 0.015.
        assert mean(values) == pytest.approx(COVERAGE, abs=0.045), name


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(0, 3))
def test_changes_are_those_of_the_comparison(seed: int, target: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels, before, after = (torch.randint(4, (60,), generator=generator) for _ in range(3))
    names = tuple("abcd")
    found = paired_changes(labels, before, after, target)
    (row,) = Comparison(names, (names[target],), labels, before, after).rows()
    for name, change in found.items():
        expected = row[f"{name}_after"] - row[f"{name}_before"]  # type: ignore[operator]
        assert change.estimate == pytest.approx(expected)
        assert change.low <= change.estimate + 1e-9
        assert change.high >= change.estimate - 1e-9
    assert found == paired_changes(labels, before, after, target)


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemar_is_the_sign_test(lost: int, won: int) -> None:
    chance = mcnemar(lost, won)
    assert chance == pytest.approx(mcnemar(won, lost))
    least = min(lost, won)
    assert chance == pytest.approx(min(1.0, 2 * binom.cdf(least, lost + won, 0.5)))
