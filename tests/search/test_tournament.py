from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cnnsplitter.objective import Objective, jaccard, kept_share, mean_difference
from cnnsplitter.search.tournament import (
    Rules,
    TournamentResult,
    build_ensembles,
    hold_tournament,
    rank_candidates,
)

ALL_SURVIVE = Rules({}, 1, 10**9)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tied_scores(classes: int, population: int, images: int, seed: int) -> Tensor:
    """Scores with many ties, so that the tie rule decides."""
    shape = (classes, population, images)
    return torch.randint(0, 4, shape, generator=seeded(seed)).float() / 3


def argmax_accuracy(scores: Tensor, labels: Tensor, members: Tensor) -> float:
    stacked = scores[torch.arange(len(scores)), members]
    return (stacked.argmax(0) == labels).double().mean().item()


def compete(
    scores: Tensor, labels: Tensor, keep: Tensor, rules: Rules, seed: int, *, first: bool = False
) -> TournamentResult:
    kernels = torch.arange(1, keep.shape[-1] + 1)
    return hold_tournament(
        scores,
        labels,
        jaccard(keep.flatten(0, 1), kernels),
        kept_share(keep, kernels),
        rules=rules,
        fitness=lambda a, d, k: Objective().fitness(a, d, k, 1.0),
        keep_first=first,
        generator=seeded(seed),
    )


@settings(max_examples=40, deadline=None)
@given(
    classes=st.integers(2, 5),
    population=st.integers(1, 4),
    images=st.integers(1, 30),
    seed=st.integers(0, 2**31),
)
def test_tournament_equals_brute_force(
    classes: int, population: int, images: int, seed: int
) -> None:
    scores = tied_scores(classes, population, images, seed)
    labels = torch.randint(0, classes, (images,), generator=seeded(seed + 1))
    keep = torch.rand(classes, population, 6, generator=seeded(seed + 2)) < 0.6
    keep[..., 0] = True
    result = compete(scores, labels, keep, ALL_SURVIVE, seed)

    kernels = torch.arange(1, 7)
    expected = torch.zeros(classes, population, dtype=torch.float64)
    for members in product(range(population), repeat=classes):
        chosen = keep[torch.arange(classes), torch.tensor(members)]
        accuracy = argmax_accuracy(scores, labels, torch.tensor(members))
        fitness = (
            0.9 * accuracy
            + 0.1 * mean_difference(chosen, kernels)
            + 0.1 * (1 - (chosen * kernels).sum().item() / 21 / classes)
        ) / 1.1
        for owner, member in enumerate(members):
            expected[owner, member] = max(expected[owner, member].item(), fitness)
    torch.testing.assert_close(result.individuals, expected, atol=1e-12, rtol=0)
    assert result.fitness == result.individuals.max().item()
    assert result.accuracy == argmax_accuracy(scores, labels, result.champion)
    chosen = keep[torch.arange(classes), result.champion]
    assert result.difference == pytest.approx(mean_difference(chosen, kernels), abs=1e-12)
    assert result.kept == pytest.approx(kept_share(chosen, kernels).mean().item(), abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 11])
def test_accuracy_of_every_survivor_is_the_argmax_accuracy(classes: int) -> None:
    scores = tied_scores(classes, 6, 90, classes)
    labels = torch.randint(0, classes, (90,), generator=seeded(1))
    found = build_ensembles(
        scores, labels, rules=Rules({}, 1, 30), keep_first=False, generator=seeded(0)
    )
    assert found.classes.all()
    for members, accuracy in zip(found.members, found.accuracy, strict=True):
        assert accuracy.item() == argmax_accuracy(scores, labels, members)


def test_ties_go_to_the_lower_class() -> None:
    scores = torch.zeros(3, 2, 4)
    labels = torch.tensor([0, 0, 1, 2])
    for seed in range(6):
        found = build_ensembles(
            scores, labels, rules=ALL_SURVIVE, keep_first=False, generator=seeded(seed)
        )
        assert found.accuracy.tolist() == [0.5] * 8


def test_places_order_by_score_then_class() -> None:
    scores = torch.tensor([[[1.0], [3.0]], [[3.0], [2.0]]])
    assert rank_candidates(scores).tolist() == [[[3, 0], [1, 2]]]


def test_places_of_many_candidates_fit_their_type() -> None:
    scores = torch.rand(2, 20_000, 1, generator=seeded(0))
    places = rank_candidates(scores)
    assert places.dtype == torch.int32
    assert torch.equal(places.flatten().sort().values, torch.arange(40_000, dtype=torch.int32))


@pytest.mark.parametrize(("classes", "population"), [(320, 100), (340, 100)])
def test_champions_among_thousands_of_candidates_are_right(classes: int, population: int) -> None:
    """Differences of places fill all the bits of their type."""
    scores = torch.rand(classes, population, 8, generator=seeded(0))
    labels = torch.randint(0, classes, (8,), generator=seeded(1))
    scores[labels, ::2, torch.arange(8)] += 1
    found = build_ensembles(
        scores, labels, rules=Rules({}, 2, 40), keep_first=False, generator=seeded(2)
    )
    expected = [argmax_accuracy(scores, labels, members) for members in found.members]
    assert found.accuracy.tolist() == expected
    assert max(expected) > 0


def test_a_single_class_is_told_by_its_margins() -> None:
    margins = torch.tensor([[[1.0, 0.0, 2.0, -1.0], [3.0, 1.0, 1.0, -2.0], [-1.0, -1.0, 0.0, 0.0]]])
    labels = torch.tensor([0, 0, 0, 0])
    result = compete(margins, labels, torch.ones(1, 3, 6, dtype=torch.bool), ALL_SURVIVE, 0)
    found = build_ensembles(
        margins, labels, rules=ALL_SURVIVE, keep_first=False, generator=seeded(0)
    )
    assert found.members.tolist() == [[0], [1], [2]]
    assert found.accuracy.tolist() == [0.5, 0.75, 0.0]
    assert result.champion.tolist() == [1]
    assert (result.accuracy, result.difference) == (0.75, 0.0)
    expected = [[0.9 * share / 1.1 for share in (0.5, 0.75, 0.0)]]
    torch.testing.assert_close(result.individuals, torch.tensor(expected, dtype=torch.float64))


def test_many_images_are_counted_without_overflow() -> None:
    # of the first 70,000 images, half are right only with the second candidate of class 0
    labels = torch.zeros(70_001, dtype=torch.int64)
    labels[-1] = 1
    scores = torch.tensor([[0.0], [2.0], [1.0], [1.0]]).expand(4, 70_001).reshape(2, 2, -1)
    found = build_ensembles(
        scores, labels, rules=ALL_SURVIVE, keep_first=False, generator=seeded(0)
    )
    expected = [argmax_accuracy(scores, labels, members) for members in found.members]
    assert found.accuracy.tolist() == expected
    assert max(expected) == 70_000 / 70_001


def test_only_images_of_the_classes_involved_count() -> None:
    # class 2 answers everything loudest: with it the accuracy is 1/3, among 0 and 1 alone it is 1
    labels = torch.tensor([0, 1, 2])
    scores = torch.tensor([[[1.0, 0, 0]], [[0, 1.0, 0]], [[9.0, 9, 9]]])
    seen = []
    for seed in range(10):
        order = torch.randperm(3, generator=seeded(seed)).tolist()
        rules = Rules({2: 1.0}, 1, 5)
        found = build_ensembles(
            scores, labels, rules=rules, keep_first=False, generator=seeded(seed)
        )
        seen.append(set(order[:2]) == {0, 1})
        assert found.accuracy.tolist() == [1 / 3]
    assert any(seen)


def test_a_threshold_is_for_the_accuracy_on_the_classes_involved() -> None:
    # all pairs are right on their own two images, which are half of all
    labels = torch.arange(4)
    scores = (labels == torch.arange(4)[:, None]).float()[:, None].expand(4, 3, 4)
    found = build_ensembles(
        scores, labels, rules=Rules({2: 0.6}, 1, 200), keep_first=False, generator=seeded(0)
    )
    assert found.accuracy.tolist() == [1.0] * 3**4


def test_threshold_of_a_size() -> None:
    rules = Rules({4: 0.9, 8: 0.8}, 1, 2)
    sizes = [2, 4, 5, 8, 10]
    assert [rules.threshold(size) for size in sizes] == [0.0, 0.9, 0.9, 0.8, 0.8]


@pytest.mark.parametrize(
    ("threshold", "least", "most", "survivors"),
    [(0.75, 1, 16, 4), (0.75, 6, 16, 6), (0.75, 1, 3, 3), (0.0, 1, 16, 16), (0.8, 1, 16, 1)],
)
def test_survivors_pass_the_threshold_within_the_clamps(
    threshold: float, least: int, most: int, survivors: int
) -> None:
    # only candidate 0 of class 0 wins its images; class 1 never wins its own one
    labels = torch.tensor([0, 0, 0, 1])
    scores = torch.zeros(2, 4, 4)
    scores[0, 0], scores[0, 1:] = 2.0, torch.tensor([2.0, 2.0, 0.0, 2.0])
    scores[1] = 1.0
    found = build_ensembles(
        scores,
        labels,
        rules=Rules({2: threshold}, least, most),
        keep_first=False,
        generator=seeded(0),
    )
    assert len(found.members) == survivors
    assert found.accuracy.tolist() == sorted(found.accuracy.tolist(), reverse=True)
    assert found.accuracy[0] == 0.75


@settings(max_examples=25, deadline=None)
@given(classes=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_last_champion_stays_in_however_bad(classes: int, seed: int) -> None:
    labels = torch.arange(40) % classes
    scores = tied_scores(classes, 5, 40, seed)
    scores[:, 0] = (labels != torch.arange(classes)[:, None]).float()
    found = build_ensembles(
        scores, labels, rules=Rules({2: 1.0}, 1, 4), keep_first=True, generator=seeded(seed)
    )
    assert (found.members == 0).all(dim=1).any()


def test_individuals_in_no_surviving_ensemble_have_fitness_0() -> None:
    labels = torch.tensor([0, 1])
    scores = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
    keep = torch.ones(2, 2, 3, dtype=torch.bool)
    result = compete(scores, labels, keep, Rules({2: 1.0}, 1, 5), 0)
    assert result.individuals.tolist() == [[0.9 / 1.1, 0.0], [0.9 / 1.1, 0.0]]
    assert result.champion.tolist() == [0, 0]
