"""What every search must hold; a test class of a search inherits `SearchContract`."""

import random
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnsplitter.errors import StorageError
from cnnsplitter.progress import Step
from cnnsplitter.search.base import Search, SearchProblem, SearchResult


@dataclass(frozen=True)
class ToyLayer:
    name: str


@dataclass(frozen=True, eq=False)
class ToyGroup:
    name: str
    layers: tuple[str, ...]
    units: Tensor


@dataclass(frozen=True, eq=False)
class ToyChannels:
    """A channel map of layers of the given widths; ``tied`` layers share the units of the first."""

    widths: tuple[int, ...]
    tied: tuple[int, int] | None = None
    fingerprint: str = "toy"

    @property
    def layers(self) -> tuple[ToyLayer, ...]:
        return tuple(ToyLayer(f"conv{i}") for i in range(len(self.widths)))

    @property
    def groups(self) -> tuple[ToyGroup, ...]:
        found, start = [], 0
        for i, width in enumerate(self.widths):
            if self.tied is not None and i == self.tied[1]:
                continue
            ids = [i] if self.tied is None or i != self.tied[0] else list(self.tied)
            names = tuple(f"conv{j}" for j in ids)
            found.append(ToyGroup("+".join(names), names, torch.arange(start, start + width)))
            start += width
        return tuple(found)

    @property
    def unit_count(self) -> int:
        return sum(len(group.units) for group in self.groups)

    @property
    def kernels_per_unit(self) -> Tensor:
        return torch.cat([torch.full((len(g.units),), len(g.layers)) for g in self.groups])

    def fill(self, keep: Tensor, priority: Tensor) -> Tensor:
        keep = keep.clone()
        for group in self.groups:
            part, best = keep[..., group.units], priority[..., group.units].argmax(-1, keepdim=True)
            emptied = ~part.any(-1, keepdim=True)
            keep[..., group.units] = part.scatter(-1, best, part.gather(-1, best) | emptied)
        return keep


@dataclass(eq=False)
class PlantedScorer:
    """Each kept unit helps or harms its class; the best selection is exactly the helpful units."""

    helpful: Tensor
    labels: Tensor
    noise: Tensor
    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    images: list[int | None] = field(default_factory=list)

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        self.calls.append((owner.clone(), keep.clone()))
        self.images.append(images)
        effect = torch.where(self.helpful[owner], 1.0, -1.0)
        strength = (keep * effect).sum(1, keepdim=True) / keep.shape[1]
        sign = torch.where(self.labels == owner[:, None], 1.0, -1.0)
        return (strength * sign + self.noise[owner])[:, :images]


def planted_problem(
    channels: ToyChannels, classes: int = 4, images: int = 160, seed: int = 0
) -> SearchProblem:
    """Return a problem whose importance tells only half of what the units are worth."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    helpful = torch.rand(classes, channels.unit_count, generator=generator) < 0.5
    helpful = channels.fill(helpful, torch.rand(helpful.shape, generator=generator))
    noise = 0.4 * torch.randn(classes, images, generator=generator)
    importance = helpful + 2 * torch.rand(helpful.shape, generator=generator)
    return SearchProblem(
        channels,
        tuple(f"class{i}" for i in range(classes)),
        importance,
        {group.name: (0.4, 0.6, 0.8) for group in channels.groups},
        labels,
        PlantedScorer(helpful, labels, noise),
    )


def planted(problem: SearchProblem) -> PlantedScorer:
    assert isinstance(problem.scorer, PlantedScorer)
    return problem.scorer


def assert_same(left: SearchResult, right: SearchResult) -> None:
    assert torch.equal(left.selections, right.selections)
    assert left.history == right.history
    assert left.fingerprint == right.fingerprint


def interrupt_after(generations: int) -> Any:
    def progress(step: Step, /) -> None:
        if (step.stage, step.done) == ("search", generations):
            raise KeyboardInterrupt

    return progress


class SearchContract:
    """Inherit and give `search`; every test then holds for it."""

    def search(self, generations: int) -> Search:
        raise NotImplementedError

    def problem(self, seed: int = 0) -> SearchProblem:
        return planted_problem(ToyChannels((8, 12, 12), tied=(1, 2)), seed=seed)

    def test_equal_seeds_give_equal_results(self) -> None:
        first = self.search(3).run(self.problem(), seed=5)
        assert_same(first, self.search(3).run(self.problem(), seed=5))
        other = self.search(3).run(self.problem(), seed=6)
        assert not torch.equal(first.selections, other.selections)

    def test_the_best_seen_is_returned(self) -> None:
        result = self.search(6).run(self.problem(), seed=1)
        measures = [generation.measure for generation in result.history]
        assert result.best_generation == measures.index(max(measures))
        assert result.accuracy == result.history[result.best_generation].accuracy
        assert [generation.index for generation in result.history] == list(range(6))
        until_best = self.search(result.best_generation + 1).run(self.problem(), seed=1)
        assert torch.equal(until_best.selections, result.selections)

    def test_evaluating_again_gives_the_recorded_score(self) -> None:
        problem = self.problem()
        result = self.search(4).run(problem, seed=2)
        scores = problem.scorer(torch.arange(len(problem.classes)), result.selections)
        right = (scores.argmax(0) == problem.labels).double().mean().item()
        assert right == result.accuracy

    def test_selections_are_valid(self) -> None:
        problem = self.problem()
        result = self.search(2).run(problem, seed=3)
        assert result.fingerprint == problem.channels.fingerprint
        for group in problem.channels.groups:
            assert result.selections[:, group.units].any(dim=1).all()

    def test_no_evaluation_is_done_twice(self) -> None:
        problem = self.problem()
        result = self.search(5).run(problem, seed=4)
        ran = [
            (int(owner), *keep.tolist())
            for owners, keeps in planted(problem).calls
            for owner, keep in zip(owners, keeps, strict=True)
        ]
        assert len(ran) == len(set(ran))
        assert len(ran) == sum(generation.evaluations for generation in result.history)

    @pytest.mark.parametrize("stop", [1, 3])
    def test_resumed_equals_uninterrupted(self, tmp_path: Path, stop: int) -> None:
        whole_file, part_file = tmp_path / "whole", tmp_path / "part"
        whole = self.search(5).run(self.problem(), seed=7, checkpoint=whole_file)
        with pytest.raises(KeyboardInterrupt):
            self.search(5).run(
                self.problem(), seed=7, checkpoint=part_file, progress=interrupt_after(stop)
            )
        problem = self.problem()
        assert_same(self.search(5).run(problem, seed=7, checkpoint=part_file), whole)
        remaining = sum(generation.evaluations for generation in whole.history[stop:])
        assert sum(len(owners) for owners, _ in planted(problem).calls) == remaining
        assert part_file.read_bytes() == whole_file.read_bytes()

    def test_ctrl_c_leaves_checkpoint_and_progress_of_the_same_step(self, tmp_path: Path) -> None:
        file, heard = tmp_path / "search", list[int]()

        def press_at_two(step: Step, /) -> None:
            if step.stage == "search":
                if step.done == 2:
                    signal.raise_signal(signal.SIGINT)
                heard.append(step.done)

        with pytest.raises(KeyboardInterrupt):
            self.search(4).run(self.problem(), seed=7, checkpoint=file, progress=press_at_two)
        assert heard == [1, 2]
        steps: list[Step] = []
        self.search(4).run(self.problem(), seed=7, checkpoint=file, progress=steps.append)
        assert [step.done for step in steps if step.stage == "search"] == [3, 4]

    def test_generations_can_be_raised(self, tmp_path: Path) -> None:
        file = tmp_path / "search"
        self.search(2).run(self.problem(), seed=8, checkpoint=file)
        more = self.search(4).run(self.problem(), seed=8, checkpoint=file)
        assert_same(more, self.search(4).run(self.problem(), seed=8))

    def test_a_finished_search_returns_at_once(self, tmp_path: Path) -> None:
        file = tmp_path / "search"
        first = self.search(3).run(self.problem(), seed=9, checkpoint=file)
        problem = self.problem()
        again = self.search(3).run(problem, seed=9, checkpoint=file, progress=interrupt_after(3))
        assert_same(again, first)
        assert planted(problem).calls == []

    def test_another_searchs_checkpoint_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "search"
        self.search(3).run(self.problem(), seed=10, checkpoint=file)
        before = file.read_bytes()
        with pytest.raises(StorageError, match="seed"):
            self.search(3).run(self.problem(), seed=11, checkpoint=file)
        renamed = replace(self.problem(), channels=ToyChannels((8, 12, 12), (1, 2), "other"))
        with pytest.raises(StorageError, match="network"):
            self.search(3).run(renamed, seed=10, checkpoint=file)
        problem = self.problem()
        relabelled = replace(problem, labels=problem.labels.flip(0))
        with pytest.raises(StorageError, match="labels"):
            self.search(3).run(relabelled, seed=10, checkpoint=file)
        with pytest.raises(StorageError, match="ends after 2"):
            self.search(2).run(problem, seed=10, checkpoint=file)
        assert file.read_bytes() == before

    def test_global_random_state_is_untouched(self) -> None:
        before = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
        self.search(2).run(self.problem(), seed=12)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert random.getstate() == before[1]
        assert str(np.random.get_state(legacy=False)) == str(before[2])

    def test_problem_is_untouched(self) -> None:
        problem, original = self.problem(), self.problem()
        self.search(2).run(problem, seed=13)
        assert torch.equal(problem.importance, original.importance)
        assert torch.equal(problem.labels, original.labels)

    def test_progress_counts_generations(self) -> None:
        every: list[Step] = []
        result = self.search(3).run(self.problem(), seed=14, progress=every.append)
        steps = [step for step in every if step.stage == "search"]
        assert [(step.done, step.total) for step in steps] == [(1, 3), (2, 3), (3, 3)]
        shown = [step.values["accuracy"] for step in steps]
        assert shown == [generation.accuracy for generation in result.history]
        whole = [entry.accuracy for entry in result.history if not entry.early]
        assert steps[-1].values["best_accuracy"] == max(whole)
