from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from cnnsplitter.errors import DataError, ModelError, SelectionError, SettingsError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.search import GeneticSearch, Scorer, SearchProblem, StartRatios
from contracts import SearchContract, ToyChannels, assert_same, planted, planted_problem

SMALL = {"population": 10, "parents": 6, "elites": 3, "least": 10, "most": 40}


def small_search(generations: int, **settings: object) -> GeneticSearch:
    return GeneticSearch.model_validate({**SMALL, "generations": generations, **settings})


class TestCorrected(SearchContract):
    def search(self, generations: int) -> GeneticSearch:
        return small_search(generations)


class TestEarlyGenerationsOnSomeImages(SearchContract):
    """The contract's searches of one generation, which is never early, have none."""

    early: ClassVar[int] = 1

    def search(self, generations: int) -> GeneticSearch:
        early = min(self.early, generations - 1)
        return small_search(generations, early_generations=early, early_images=80 * early)

    def test_no_evaluation_is_done_twice(self) -> None:
        """On the same images: elites of the last early generation are run on all images."""
        problem = self.problem()
        result = self.search(5).run(problem, seed=4)
        ran = [
            (images, int(owner), *keep.tolist())
            for images, call in zip(planted(problem).images, planted(problem).calls, strict=True)
            for owner, keep in zip(*call, strict=True)
        ]
        assert len(ran) == len(set(ran))
        assert len(ran) == sum(generation.evaluations for generation in result.history)

    def test_the_best_seen_is_returned(self) -> None:
        """Among the generations that saw all images."""
        result = self.search(6).run(self.problem(), seed=1)
        assert [entry.early for entry in result.history] == [True] + 5 * [False]
        measures = [entry.measure for entry in result.history[1:]]
        assert result.best_generation == 1 + measures.index(max(measures))
        assert result.accuracy == result.history[result.best_generation].accuracy
        until_best = self.search(result.best_generation + 1).run(self.problem(), seed=1)
        assert torch.equal(until_best.selections, result.selections)


def test_early_generations_run_the_first_images() -> None:
    problem = planted_problem(ToyChannels((10, 10)))
    search = small_search(5, early_generations=3, early_images=40)
    result = search.run(problem, seed=0)
    assert planted(problem).images == [40, 40, 40, None, None]
    assert all(entry.accuracy * 40 % 1 == 0 for entry in result.history[:3])
    # the first whole generation also runs the elites again
    assert result.history[3].evaluations == result.history[2].evaluations + 4 * search.elites


def test_early_images_that_are_all_images_change_nothing() -> None:
    problem = planted_problem(ToyChannels((10, 10)))
    all_images = {"early_images": 1000, "early_precision": "float32"}
    many = small_search(4, early_generations=2, **all_images).run(problem, seed=0)
    assert_same(many, small_search(4).run(problem, seed=0))


def test_early_generations_in_bfloat16_run_all_images() -> None:
    """They can be told from others only by the number of images, which is given."""
    problem = planted_problem(ToyChannels((10, 10)))
    search = small_search(4, early_generations=2, early_precision="bfloat16")
    result = search.run(problem, seed=0)
    assert planted(problem).images == [160, 160, None, None]
    assert [entry.early for entry in result.history] == [True, True, False, False]
    assert result.history[2].evaluations == result.history[1].evaluations + 4 * search.elites


def test_early_images_without_a_class_are_refused() -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    with pytest.raises(DataError, match="show no 'class3'; raise early_images"):
        small_search(2, early_generations=1, early_images=3).run(problem, seed=0)


class TestPaper(SearchContract):
    def search(self, generations: int) -> GeneticSearch:
        paper = {"form": "paper", "size_weight": 0, "mutation_kind": "redraw"}
        return small_search(generations, thresholds={2: 0.9, 4: 0.5}, **paper)


def random_accuracy(problem: SearchProblem, tries: int) -> float:
    generator = torch.Generator().manual_seed(99)
    classes, units = problem.importance.shape
    best = 0.0
    for _ in range(tries):
        keep = torch.rand(classes, units, generator=generator) < 0.5
        scores = problem.scorer(torch.arange(classes), keep)
        best = max(best, (scores.argmax(0) == problem.labels).double().mean().item())
    return best


def test_search_improves_and_beats_random_selection() -> None:
    problem = planted_problem(ToyChannels((10, 10, 10)), classes=5, images=300)
    result = GeneticSearch(population=20, parents=10, elites=4, generations=25, most=100).run(
        problem, seed=0
    )
    assert result.accuracy > result.history[0].accuracy + 0.05
    tries = sum(generation.evaluations for generation in result.history) // 5
    assert result.accuracy > random_accuracy(problem, tries) + 0.05
    agreement = (result.selections == planted(problem).helpful).double().mean().item()
    assert agreement > 0.8


def test_planted_selection_is_found_where_size_counts_nothing() -> None:
    problem = planted_problem(ToyChannels((4, 4)), classes=2, images=400)
    search = GeneticSearch(
        population=30, parents=15, elites=6, generations=30, alpha=1, size_weight=0, mutation=0.1
    )
    found = search.run(problem, seed=0)
    best = problem.scorer(torch.arange(2), planted(problem).helpful)
    assert found.accuracy == (best.argmax(0) == problem.labels).double().mean().item()


def test_a_search_that_begins_near_a_result_is_at_least_as_good() -> None:
    problem = planted_problem(ToyChannels((10, 10)))
    first = small_search(8).run(problem, seed=0)
    warm = small_search(1).run(replace(problem, start=first.selections), seed=1)
    cold = small_search(1).run(problem, seed=1)
    assert warm.best.measure >= first.best.measure > cold.best.measure


def test_a_checkpoint_knows_where_its_search_began(tmp_path: Path) -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    start = torch.ones(problem.importance.shape, dtype=torch.bool)
    small_search(1).run(problem, seed=0, checkpoint=tmp_path / "search")
    with pytest.raises(StorageError, match="different start;"):
        small_search(1).run(replace(problem, start=start), seed=0, checkpoint=tmp_path / "search")
    with pytest.raises(SelectionError, match="start selections must be"):
        replace(problem, start=start[:, 1:])


def test_size_weight_makes_modules_smaller() -> None:
    kept = []
    for weight in (0.0, 5.0):
        problem = planted_problem(ToyChannels((10, 10)))
        result = small_search(15, size_weight=weight, most=400, least=400).run(problem, seed=0)
        kept.append(result.best.kept)
    assert kept[1] < kept[0] - 0.1


def test_difference_weight_makes_modules_differ() -> None:
    difference = []
    for alpha in (1.0, 0.1):
        problem = planted_problem(ToyChannels((10, 10)))
        result = small_search(10, alpha=alpha, size_weight=0).run(problem, seed=0)
        difference.append(result.best.difference)
    assert difference[1] > difference[0] + 0.1


def test_search_of_a_net_with_few_selections_copies_instead_of_running_twice() -> None:
    problem = planted_problem(ToyChannels((2, 2)), classes=2)
    small_search(6).run(problem, seed=0)
    ran = [row for owners, _ in planted(problem).calls for row in owners.tolist()]
    assert 2 * 4 < len(ran) <= 2 * 9


def test_patience_stops_a_search_that_no_longer_improves(tmp_path: Path) -> None:
    problem = planted_problem(ToyChannels((2, 2)), classes=2)
    search = small_search(100, patience=3)
    result = search.run(problem, seed=0, checkpoint=tmp_path / "search")
    assert len(result.history) == result.best_generation + 4 < 100
    calls = len(planted(problem).calls)
    again = search.run(problem, seed=0, checkpoint=tmp_path / "search")
    assert again.history == result.history
    assert len(planted(problem).calls) == calls


def test_champion_survives_into_the_next_generation() -> None:
    problem = planted_problem(ToyChannels((10, 10, 10)), classes=5)
    result = small_search(12, gamma=0, least=1, most=2).run(problem, seed=0)
    fitness = [generation.fitness for generation in result.history]
    assert fitness == sorted(fitness)


def test_foreign_file_as_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other"
    write_tensors(file, {"a": torch.zeros(1)}, {"kind": "class module"})
    with pytest.raises(StorageError, match="is not a genetic search checkpoint"):
        small_search(1).run(planted_problem(ToyChannels((4, 4))), seed=0, checkpoint=file)


def test_incomplete_checkpoint_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "search"
    problem = planted_problem(ToyChannels((4, 4)))
    small_search(1).run(problem, seed=0, checkpoint=file)
    tensors, manifest = read_tensors(file)
    del tensors["champion"]
    write_tensors(file, tensors, manifest)
    with pytest.raises(StorageError, match="'champion' is missing"):
        small_search(2).run(problem, seed=0, checkpoint=file)
    write_tensors(file, tensors, {**manifest, "history": [{"index": 0}]})
    with pytest.raises(StorageError, match="is missing"):
        small_search(2).run(problem, seed=0, checkpoint=file)


@pytest.mark.parametrize("name", ["kept_macs", "kept", "early"])
def test_a_history_of_an_older_version_is_continued_and_a_broken_one_is_not(
    name: str, tmp_path: Path
) -> None:
    """Shares of multiply-adds may be unknown, as they are in checkpoints from before they came."""
    file = tmp_path / "search"
    problem = planted_problem(ToyChannels((4, 4)))
    small_search(1).run(problem, seed=0, checkpoint=file)
    tensors, manifest = read_tensors(file)
    entry = manifest["history"][0]
    assert entry.pop("kept_macs") is None
    write_tensors(file, tensors, {**manifest, "history": [{**entry, name: None}]})
    if name == "kept_macs":
        assert len(small_search(2).run(problem, seed=0, checkpoint=file).history) == 2
    else:
        with pytest.raises(StorageError, match="holds what is no number"):
            small_search(2).run(problem, seed=0, checkpoint=file)


def test_scores_that_are_not_finite_are_refused() -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    planted(problem).noise[0, 0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        small_search(1).run(problem, seed=0)


def test_sensitivity_is_needed_unless_ratios_are_given() -> None:
    assert GeneticSearch().needs_sensitivity
    assert not GeneticSearch.paper("rescnn-svhn").needs_sensitivity
    assert not GeneticSearch(start_ratios={"conv1": (0.5,)}).needs_sensitivity


def test_own_start_ratios_override_the_problems() -> None:
    problem = planted_problem(ToyChannels((10, 10)))
    search = small_search(1, start_ratios={"conv1": (1.0,)})
    search.run(problem, seed=0)
    ((_, keep),) = planted(problem).calls
    first_tries = keep[:, 10:].double().mean().item()
    assert first_tries > 0.95
    assert keep[:, :10].double().mean().item() < 0.8


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        ({"conf1": (0.5,)}, "unknown layer 'conf1'; did you mean 'conv1'"),
        (StartRatios(sensitive=(7,), sensitive_ratios=(0.5,), other_ratios=(0.5,)), "has 2"),
    ],
)
def test_start_ratios_that_do_not_fit_are_refused(ratios: object, message: str) -> None:
    problem = planted_problem(ToyChannels((10, 10)))
    with pytest.raises(SettingsError, match=message):
        small_search(1, start_ratios=ratios).run(problem, seed=0)
    assert planted(problem).calls == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"population": 1}, "population"),
        ({"population": 10, "parents": 5, "elites": 10}, "fewer than population"),
        ({"population": 10, "parents": 11, "elites": 2}, "at most population"),
        ({"least": 100, "most": 50}, "at most most"),
        ({"mutation": 1.5}, "mutation"),
        ({"mutaton": 0.5}, "mutaton"),
        ({"form": "paper"}, "size_weight to 0"),
        ({"alpha": 0, "size_weight": 0}, "cannot both be 0"),
        ({"thresholds": {2: 95}}, "thresholds"),
        ({"start_ratios": {"conv1": ()}}, "start_ratios"),
        ({"start_ratios": {"conv1": (0.0,)}}, "start_ratios"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GeneticSearch.model_validate(settings)


def test_settings_read_from_json_are_equal() -> None:
    own = GeneticSearch(start_ratios={"conv1": (0.5, 0.7)}, thresholds={2: 0.9})
    for search in (GeneticSearch(), own, GeneticSearch.paper("rescnn-svhn")):
        assert GeneticSearch.model_validate_json(search.model_dump_json()) == search


def with_problem(
    classes: tuple[str, ...] = ("cat", "dog"),
    widths: tuple[int, ...] = (4,),
    importance: Tensor | None = None,
    labels: tuple[int, ...] = (0, 1),
) -> SearchProblem:
    channels = ToyChannels(widths)
    if importance is None:
        importance = torch.zeros(len(classes), channels.unit_count)
    scorer: Scorer = lambda owner, keep, images=None: owner  # noqa: E731
    return SearchProblem(channels, classes, importance, {}, torch.tensor(labels), scorer)


def test_problems_that_cannot_be_searched_are_refused() -> None:
    with pytest.raises(DataError, match="at least 2 classes"):
        with_problem(classes=("cat",), labels=(0, 0))
    with pytest.raises(DataError, match="no search image of class 'dog'"):
        with_problem(labels=(0, 0))
    with pytest.raises(DataError, match="label 2 among 2 classes"):
        with_problem(labels=(0, 1, 2))
    with pytest.raises(SelectionError, match=r"\[2, 4\]; got \[2, 3\]"):
        with_problem(importance=torch.zeros(2, 3))
    with pytest.raises(ModelError, match="no removable kernels"):
        with_problem(widths=())
    with pytest.raises(SettingsError, match="no start ratios for layer 'conv0'"):
        small_search(1).run(with_problem(), seed=0)


def test_selection_of_a_class_by_name() -> None:
    problem = planted_problem(ToyChannels((4, 4)))
    result = small_search(1).run(problem, seed=0)
    found = result.selection("class2")
    assert torch.equal(found.keep, result.selections[2])
    assert found.fingerprint == problem.channels.fingerprint
    with pytest.raises(SettingsError, match="unknown class 'clas2'"):
        result.selection("clas2")
