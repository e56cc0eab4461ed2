from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cnnsplitter.errors import ModelError, SettingsError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.objective import composed_accuracy, kept_share
from cnnsplitter.search import (
    SEARCHES,
    GeneticSearch,
    MarginProblem,
    RandomSearch,
    SearchProblem,
    ThresholdSearch,
    make_search,
)
from cnnsplitter.search.budget import Budget, Target
from contracts import SearchContract, ToyChannels, planted, planted_problem
from planted_gradients import with_gradients

TOY = ToyChannels((8, 12, 12), tied=(1, 2))


class TestThreshold(SearchContract):
    def search(self, generations: int) -> ThresholdSearch:
        return ThresholdSearch(tries=generations)

    def problem(self, seed: int = 0) -> SearchProblem:
        # One in which layers of other weights do better: else the first try, the same for all
        # seeds, would be the best for all.
        return super().problem(seed + 10)


class TestRandom(SearchContract):
    def search(self, generations: int) -> RandomSearch:
        return RandomSearch(tries=generations)


@given(st.data())
def test_the_budget_is_used_up_and_kept(data: st.DataObject) -> None:
    widths = tuple(data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4)))
    channels = ToyChannels(widths, tied=(0, 1))
    share = data.draw(st.floats(0.01, 1))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    priority = torch.rand(3, channels.unit_count, generator=generator)
    keep = Budget.of_kernels(channels).best(priority, share)
    least = channels.fill(torch.zeros_like(keep), priority)
    assert (least <= keep).all()
    kernels = channels.kernels_per_unit
    over = (keep & ~least).any(dim=1) & (kept_share(keep, kernels) > share + 1e-6)
    assert not over.any()
    biggest = int(kernels.max()) / int(kernels.sum())
    assert (keep.all(dim=1) | (kept_share(keep, kernels) > share - biggest - 1e-6)).all()
    free = keep & ~least
    worst_kept = torch.where(free, priority, torch.inf).amin(dim=1)
    best_dropped = torch.where(keep, -torch.inf, priority).amax(dim=1)
    assert (worst_kept >= best_dropped).all()


def test_the_most_important_units_are_kept() -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    problem.importance[:, :4] = torch.tensor([400.0, 100, 300, 200])
    problem.importance[:, 4:] = torch.tensor([1.0, 5, 2, 4])
    kept = {
        scale: ThresholdSearch(keep=0.5, scale=scale).run(problem, seed=0).selections[0].tolist()
        for scale in ("mean", "max", "rank")
    }
    assert kept["rank"] == [True, False, True, False, False, True, False, True]
    assert kept["max"] == [True, False, True, False, False, True, False, True]
    assert kept["mean"] == [True, False, True, False, False, True, False, True]
    problem.importance[:, :4] = torch.tensor([1.0, 1, 1, 1])
    problem.importance[:, 4:] = torch.tensor([9.0, 0, 0, 0])
    flat = ThresholdSearch(keep=0.5, scale="max").run(problem, seed=0).selections[0]
    assert flat.tolist() == [True, True, True, False, True, False, False, False]


def test_equal_ranks_keep_equal_shares_of_every_layer() -> None:
    problem = planted_problem(ToyChannels((8, 16)))
    found = ThresholdSearch(keep=0.5, scale="rank").run(problem, seed=0).selections
    assert found[:, :8].sum(1).tolist() == [4] * 4
    assert found[:, 8:].sum(1).tolist() == [8] * 4


def test_importance_without_any_value_is_no_hindrance() -> None:
    problem = planted_problem(TOY)
    problem.importance[:] = 0
    found = ThresholdSearch(keep=0.5).run(problem, seed=0)
    assert found.best.kept == pytest.approx(0.5, abs=0.1)


def test_the_first_try_of_thresholding_leaves_nothing_to_chance() -> None:
    one = ThresholdSearch().run(planted_problem(TOY), seed=0)
    two = ThresholdSearch().run(planted_problem(TOY), seed=1)
    assert torch.equal(one.selections, two.selections)


def test_more_tries_are_never_worse() -> None:
    for kind in (RandomSearch, ThresholdSearch):
        best = [
            kind(tries=n).run(planted_problem(TOY, seed=10), seed=0).accuracy for n in (1, 4, 16)
        ]
        assert best == sorted(best)
        assert best[-1] > best[0]


def test_thresholding_beats_chance_where_importance_tells_something() -> None:
    problem = planted_problem(ToyChannels((20, 20)), images=400)
    assert (
        ThresholdSearch().run(problem, seed=0).accuracy
        > RandomSearch(tries=5).run(problem, seed=0).accuracy
    )


@pytest.mark.parametrize("target", get_args(Target))
@pytest.mark.parametrize(
    "name", [name for name, kind in SEARCHES.items() if "keep" in kind.model_fields]
)
def test_class_modules_cost_no_more_than_the_share(name: str, target: Target) -> None:
    problem = with_gradients(planted_problem(TOY))
    search = make_search(name, {"keep": 0.3, "target": target})
    shares = Budget.of(problem, target).share(search.run(problem, seed=0).selections)
    assert ((shares > 0.2) & (shares <= 0.3 + 1e-9)).all()


def test_a_target_in_multiply_adds_needs_the_network() -> None:
    with pytest.raises(SettingsError, match="masked scorer"):
        RandomSearch(target="multiply-adds").run(planted_problem(TOY), seed=0)


def test_scores_that_are_not_finite_are_refused() -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    planted(problem).noise[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        RandomSearch().run(problem, seed=0)


def test_foreign_and_incomplete_checkpoints_are_refused(tmp_path: Path) -> None:
    problem, file = planted_problem(TOY), tmp_path / "search"
    GeneticSearch(generations=1).run(problem, seed=0, checkpoint=file)
    with pytest.raises(StorageError, match="is not a checkpoint of tries"):
        RandomSearch().run(problem, seed=0, checkpoint=file)
    file.unlink()
    ThresholdSearch().run(problem, seed=0, checkpoint=file)
    with pytest.raises(StorageError, match=r"with different .*search"):
        RandomSearch().run(problem, seed=0, checkpoint=file)
    tensors, manifest = read_tensors(file)
    del tensors["keep"]
    write_tensors(file, tensors, manifest)
    with pytest.raises(StorageError, match="'keep' is missing"):
        ThresholdSearch().run(problem, seed=0, checkpoint=file)


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_by_name(name: str) -> None:
    search = make_search(name)
    assert type(search) is SEARCHES[name]
    assert SEARCHES[name].model_validate_json(search.model_dump_json()) == search


@dataclass(frozen=True, eq=False)
class PlantedMargins:
    """Margins that grow with the helpful units kept, on images of one class, the task."""

    helpful: torch.Tensor
    noise: torch.Tensor

    @property
    def labels(self) -> torch.Tensor:
        return torch.zeros(len(self.noise), dtype=torch.int64)

    @property
    def logits(self) -> torch.Tensor:
        """Of a strong model that keeps the helpful units only."""
        return (self.helpful.sum() + self.noise)[:, None]

    def __call__(
        self, images: torch.Tensor, owner: torch.Tensor, masks: torch.Tensor
    ) -> torch.Tensor:
        return (masks * (2.0 * self.helpful - 1)).sum(1) + self.noise[images]

    def multiply_adds(self, masks: torch.Tensor) -> torch.Tensor:
        return masks.double().sum(-1)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_single_population_is_searched_by_margins(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    channels = ToyChannels((6, 6))
    helpful = torch.rand(channels.unit_count, generator=generator) < 0.5
    noise = 2 * torch.randn(200, generator=generator)

    def margins(owner: torch.Tensor, keep: torch.Tensor, images: int | None = None) -> torch.Tensor:
        return (keep * (2.0 * helpful - 1)).sum(1, keepdim=True) + noise

    problem = MarginProblem(
        channels,
        ("task",),
        helpful[None].float(),
        {group.name: (0.5, 1.0) for group in channels.groups},
        torch.zeros(200, dtype=torch.int64),
        margins,
        masked=PlantedMargins(helpful, noise),
    )
    settings = {"rounds": 3, "steps": 20, "anneal": 2} if name == "gradient" else {}
    search = make_search(name, settings)
    result = search.run(problem, seed=0)
    assert result.selections.shape == (1, 12)
    right = (margins(torch.zeros(1), result.selections) > 0).double().mean().item()
    assert result.accuracy == right
    assert result.best.difference == 0
    if name != "random":
        assert right > 0.9


def test_options_are_checked() -> None:
    options = {"keep": 0.3, "tries": 2}
    assert make_search("random", {"keep": 0.5}, options=options) == RandomSearch(keep=0.3, tries=2)
    with pytest.raises(SettingsError, match="unknown search 'importence'; did you mean"):
        make_search("importence")
    with pytest.raises(SettingsError, match="'genetic' has no option 'keep'; these have: grad"):
        make_search("genetic", options={"keep": 0.5})
    with pytest.raises(SettingsError, match="importance: unknown key 'scael'; did you mean"):
        make_search("importance", {"scael": "max"})
    with pytest.raises(SettingsError, match="random: keep"):
        make_search("random", {"keep": 0})
    with pytest.raises(ValidationError, match="tries"):
        RandomSearch(tries=0)


def test_every_try_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[float] = []

    def counting(scores: torch.Tensor, labels: torch.Tensor) -> float:
        judged.append(composed_accuracy(scores, labels))
        return judged[-1]

    monkeypatch.setattr("cnnsplitter.search.tries.composed_accuracy", counting)
    result = RandomSearch(tries=5).run(planted_problem(TOY), seed=0)
    assert judged == [entry.accuracy for entry in result.history]
