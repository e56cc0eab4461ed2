from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.progress import Step
from cnnsplitter.search import GradientSearch, SearchProblem
from contracts import SearchContract, ToyChannels, planted, planted_problem
from planted_gradients import PlantedMasked, with_gradients

SMALL = {"keep": 0.6, "steps": 5, "anneal": 2, "pairs": 40, "rate": 0.1, "start": "random"}


def small_problem(seed: int = 0) -> SearchProblem:
    return with_gradients(planted_problem(ToyChannels((8, 12, 12), tied=(1, 2)), seed=seed))


def small_search(rounds: int, **settings: object) -> GradientSearch:
    return GradientSearch.model_validate({**SMALL, "rounds": rounds, **settings})


class TestStraightThrough(SearchContract):
    def problem(self, seed: int = 0) -> SearchProblem:
        return small_problem(seed)

    def search(self, generations: int) -> GradientSearch:
        return small_search(generations, gate="straight-through")


class TestSigmoid(TestStraightThrough):
    def search(self, generations: int) -> GradientSearch:
        return small_search(generations)


class TestHardConcrete(TestStraightThrough):
    def search(self, generations: int) -> GradientSearch:
        return small_search(
            generations,
            gate="hard-concrete",
            form="both",
            scaled=True,
            target="multiply-adds",
        )


class TestPaper(TestStraightThrough):
    def search(self, generations: int) -> GradientSearch:
        paper = GradientSearch.paper(keep=0.6).model_dump()
        return GradientSearch.model_validate({**paper, "steps": 5, "rounds": generations})


def test_it_learns_which_units_help() -> None:
    problem = with_gradients(planted_problem(ToyChannels((10, 10, 10)), classes=5, images=300))
    search = GradientSearch(keep=0.5, rounds=4, steps=20, anneal=2, rate=0.2)
    result = search.run(problem, seed=0)
    helpful = planted(problem).helpful
    assert (result.selections & helpful).sum() > 0.85 * torch.minimum(
        helpful.sum(1), torch.tensor(15)
    ).sum()
    assert result.best.kept <= 0.5
    best = problem.scorer(torch.arange(5), helpful).argmax(0) == problem.labels
    assert result.accuracy > 0.9 * best.double().mean().item()


def test_a_target_in_multiply_adds_is_kept() -> None:
    problem = small_problem()
    result = small_search(2, target="multiply-adds", keep=0.25).run(problem, seed=0)
    assert problem.masked is not None
    whole = problem.masked.multiply_adds(torch.ones(problem.channels.unit_count))
    assert (problem.masked.multiply_adds(result.selections) <= 0.25 * whole).all()


def test_a_problem_without_training_images_is_refused() -> None:
    with pytest.raises(SettingsError, match="needs training images"):
        small_search(1).run(planted_problem(ToyChannels((4, 4))), seed=0)


def test_patience_counts_after_the_share_is_reached() -> None:
    problem = with_gradients(planted_problem(ToyChannels((2, 2)), classes=2))
    result = small_search(50, patience=3, anneal=5).run(problem, seed=0)
    assert len(result.history) == max(5, result.best_generation + 1) + 3


def test_start_from_importance_prefers_important_units() -> None:
    problem = small_problem()
    search = small_search(1, start="importance", steps=1, rate=1e-9)
    result = search.run(problem, seed=0)
    kept = problem.importance[result.selections].mean()
    assert kept > problem.importance[~result.selections].mean()


def test_a_checkpoint_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "search"
    write_tensors(file, {"a": torch.zeros(1)}, {"kind": "class module"})
    with pytest.raises(StorageError, match="is not a gradient search checkpoint"):
        small_search(1).run(small_problem(), seed=0, checkpoint=file)


def test_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "search"
    small_search(1).run(small_problem(), seed=0, checkpoint=file)
    tensors, manifest = read_tensors(file)
    del tensors["adam.mean"]
    write_tensors(file, tensors, manifest)
    with pytest.raises(StorageError, match=r"'adam\.mean' is missing"):
        small_search(2).run(small_problem(), seed=0, checkpoint=file)


def test_other_training_images_are_another_search(tmp_path: Path) -> None:
    file = tmp_path / "search"
    problem = small_problem()
    small_search(1).run(problem, seed=0, checkpoint=file)
    scorer = replace(planted(problem), labels=problem.labels.flip(0))
    other = replace(problem, masked=PlantedMasked(scorer, problem.channels.unit_count))
    with pytest.raises(StorageError, match="training labels"):
        small_search(1).run(other, seed=0, checkpoint=file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"keep": 0}, "keep"), ({"keap": 0.5}, "keap"), ({"gate": "soft"}, "gate")],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GradientSearch.model_validate(settings)


def test_settings_read_from_json_are_equal() -> None:
    for search in (GradientSearch(), GradientSearch.paper(0.3)):
        assert GradientSearch.model_validate_json(search.model_dump_json()) == search


def test_steps_of_a_round_are_told_with_their_loss() -> None:
    steps: list[Step] = []
    small_search(2).run(small_problem(), seed=0, progress=steps.append)
    names = ["steps of the round"] * 5 + ["search"]
    assert [step.stage for step in steps] == names * 2
    assert [step.done for step in steps[:5]] == [1, 2, 3, 4, 5]
    assert steps[10].values["loss"] < steps[0].values["loss"]
