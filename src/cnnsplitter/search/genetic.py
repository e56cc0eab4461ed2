"""The genetic search: one population per class, scored together (method.md section 2.5)."""

from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from cnnsplitter.errors import DataError, ModelError, require_seed
from cnnsplitter.interrupts import held_interrupts
from cnnsplitter.objective import jaccard, kept_share
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.search.base import Generation, SearchProblem, SearchResult
from cnnsplitter.search.checkpoint import (
    BYTES,
    Kinds,
    SearchState,
    describe,
    load_state,
    save_state,
)
from cnnsplitter.search.genes import GeneMap, start_population
from cnnsplitter.search.novelty import Brood, make_new
from cnnsplitter.search.operators import choose_elites, choose_parents, cross, mutate
from cnnsplitter.search.settings import GeneticSettings
from cnnsplitter.search.tournament import TournamentResult, hold_tournament


class GeneticSearch(GeneticSettings):
    """The search of the paper, corrected by default; `paper` gives the published settings.

    Example:
        >>> GeneticSearch(population=12, parents=6, elites=2, generations=5).generations
        5
        >>> GeneticSearch.paper("simcnn-svhn").mutation
        0.1
    """

    def run(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        checkpoint: Path | None = None,
        progress: Progress = silent,
    ) -> SearchResult:
        """Search, continuing from ``checkpoint`` if that file exists.

        Args:
            problem: What to search.
            seed: Seed of every random choice; equal seeds give equal results.
            checkpoint: File that is rewritten after each generation. A search that was stopped
                and continued gives the same result, bit for bit; ``generations`` may be raised.
            progress: Called after each generation.

        Raises:
            StorageError: The checkpoint is broken or belongs to another search.
            SettingsError: The start ratios do not fit the network, or a seed that is none.
            ModelError: A class module gives scores that are not finite.
            DataError: The images of the early generations lack a class.
        """
        require_seed(seed)
        evolution = _Evolution(self, problem)
        settings = self.model_dump(mode="json", exclude={"generations", "start_ratios"})
        identity = describe(problem, evolution.ratios, {"seed": seed, **settings})
        state = None
        if checkpoint is not None and checkpoint.exists():
            state = load_state(checkpoint, identity, self.generations, evolution.kinds())
        while state is None or not self._is_finished(state):
            state = evolution.next_state(state, seed)
            with held_interrupts():
                if checkpoint is not None:
                    save_state(checkpoint, state, identity)
                progress(self._step(state))
        return _result(problem, state)

    def _is_finished(self, state: SearchState) -> bool:
        done, whole = len(state.history), _whole(state.history)
        if not whole:
            return False
        best = max(whole, key=lambda generation: generation.measure)
        stalled = done - 1 - best.index >= self.patience > 0
        return done >= self.generations or stalled

    def _step(self, state: SearchState) -> Step:
        last = state.history[-1]
        values = {
            "accuracy": last.accuracy,
            "best_accuracy": max(past.accuracy for past in _whole(state.history) or state.history),
            "difference": last.difference,
            "kept": last.kept,
            "fitness": last.fitness,
        }
        return Step("search", len(state.history), self.generations, values)


class _Evolution:
    """The fixed parts of one search; each step is a pure function of the state."""

    def __init__(self, settings: GeneticSettings, problem: SearchProblem) -> None:
        self.settings = settings
        self.problem = problem
        self.ratios = settings.ratios_for(problem.channels, problem.start_ratios)
        self.early = self._early_images()
        self.genes = GeneMap.build(problem.channels.groups, problem.importance)

    def _early_images(self) -> int | None:
        """Return how many images early generations see, None where none is any rougher."""
        settings, labels = self.settings, self.problem.labels
        first = labels[: settings.early_images or None]
        if len(first) == len(labels) and settings.early_precision == "float32":
            return None
        counts = first.bincount(minlength=len(self.problem.classes))
        for name, count in zip(self.problem.classes, counts.tolist(), strict=True):
            if not count:
                raise DataError(
                    f"the first {len(first)} search images, those of early generations, show no "
                    f"{name!r}; raise early_images or let the classes take turns"
                )
        return len(first)

    def kinds(self) -> Kinds:
        """Return type and shape of the tensors of a state."""
        classes, units = self.problem.importance.shape
        population, elites = self.settings.population, self.settings.elites
        return {
            "genes": (torch.bool, (classes, population, self.genes.gene_count)),
            "elite_scores": (torch.float32, (classes, elites, None)),
            "fitness": (torch.float64, (classes, population)),
            "champion": (torch.int64, (classes,)),
            "best": (torch.bool, (classes, units)),
            "random": BYTES,
        }

    def next_state(self, state: SearchState | None, seed: int) -> SearchState:
        """Return the state after one more generation, the first if there is none yet."""
        generator = torch.Generator()
        history = () if state is None else state.history
        early = self.early is not None and len(history) < self.settings.early_generations
        if state is None:
            generator.manual_seed(seed)
            brood, known = self._start(generator), None
        else:
            generator.set_state(state.random)
            brood = self._breed(state, generator)
            known = state.elite_scores if history[-1].early == early else None
        scores, evaluations = self._score(brood, known, self.early if early else None)
        result = self._compete(brood, scores, history, generator)
        best = _members(brood.selections, result.champion)
        macs = self.problem.kept_macs(best)
        generation = replace(self._record(result, len(history), evaluations, early), kept_macs=macs)
        before = max((past.measure for past in _whole(history)), default=-inf)
        if state is not None and generation.measure <= before:
            best = state.best
        elites = choose_elites(result.individuals, result.champion, self.settings.elites)
        return SearchState(
            brood.genes,
            _individuals(scores, elites),
            result.individuals,
            result.champion,
            best,
            generator.get_state(),
            brood.seen,
            (*history, generation),
        )

    def _express(self, genes: Tensor) -> Tensor:
        """Return valid selections bool[classes, population, units]."""
        keep = self.genes.expand(genes)
        priority = self.problem.importance[:, None].expand(keep.shape)
        return self.problem.channels.fill(keep, priority)

    def _start(self, generator: torch.Generator) -> Brood:
        genes = start_population(self.genes, self.ratios, self.settings.population, generator)
        if self.problem.start is not None:
            genes = self._begin_near(self.problem.start, genes, generator)
        return self._make_new(genes, 0, frozenset(), generator)

    def _begin_near(self, start: Tensor, genes: Tensor, generator: torch.Generator) -> Tensor:
        """Replace half of the individuals by the start selections and mutants of them."""
        half = self.settings.population // 2
        known = self.genes.compress(start)[:, None].expand(-1, half, -1)
        mutants = mutate(known, self.settings.mutation, self.settings.mutation_kind, generator)
        return torch.cat([known[:, :1], mutants[:, 1:], genes[:, half:]], dim=1)

    def _breed(self, state: SearchState, generator: torch.Generator) -> Brood:
        """Return the next population, the elites first."""
        chosen = self.settings
        elites = choose_elites(state.fitness, state.champion, chosen.elites)
        parents = choose_parents(state.fitness, chosen.parents, generator)
        children = cross(
            _individuals(state.genes, parents), chosen.population - chosen.elites, generator
        )
        children = mutate(children, chosen.mutation, chosen.mutation_kind, generator)
        genes = torch.cat([_individuals(state.genes, elites), children], dim=1)
        return self._make_new(genes, chosen.elites, state.seen, generator)

    def _make_new(
        self, genes: Tensor, elites: int, seen: frozenset[bytes], generator: torch.Generator
    ) -> Brood:
        # a share of 0 could never leave a known selection
        change = partial(
            mutate,
            share=max(self.settings.mutation, 1 / self.genes.gene_count),
            kind=self.settings.mutation_kind,
            generator=generator,
        )
        return make_new(genes, elites, seen, self._express, change)

    def _score(self, brood: Brood, known: Tensor | None, early: int | None) -> tuple[Tensor, int]:
        """Return float32[classes, population, n], and how many selections were run for it.

        Those are the fresh ones, and the elites where their scores are not ``known``.
        """
        original = brood.source == torch.arange(brood.source.shape[1])
        scores = torch.zeros(*original.shape, early or len(self.problem.labels))
        run = original if known is None else brood.fresh
        if known is not None:
            scores[:, : known.shape[1]] = known
        owner = run.nonzero()[:, 0]
        if len(owner):
            ways = {} if early is None else {"images": early}
            new = self.problem.scorer(owner, brood.selections[run], **ways)
            if not new.isfinite().all():
                raise ModelError(
                    "a class module gives scores that are not finite; check the strong model's "
                    "weights and the search images"
                )
            scores[run] = new.float()
        copies = ~original
        scores[copies] = scores[copies.nonzero()[:, 0], brood.source[copies]]
        return scores, len(owner)

    def _compete(
        self,
        brood: Brood,
        scores: Tensor,
        history: tuple[Generation, ...],
        generator: torch.Generator,
    ) -> TournamentResult:
        kernels = self.problem.channels.kernels_per_unit
        best_accuracy = max((generation.accuracy for generation in history), default=0.0)
        return hold_tournament(
            scores,
            self.problem.labels[: scores.shape[2]],
            jaccard(brood.selections.flatten(0, 1), kernels),
            kept_share(brood.selections, kernels),
            rules=self.settings.rules,
            fitness=partial(self.settings.objective.fitness, best_accuracy=best_accuracy),
            keep_first=bool(history),
            generator=generator,
        )

    def _record(
        self, result: TournamentResult, index: int, evaluations: int, early: bool
    ) -> Generation:
        figures = (result.accuracy, result.difference, result.kept)
        measure = self.settings.objective.measure(*figures)
        return Generation(index, *figures, result.fitness, measure, evaluations, early)


def _whole(history: tuple[Generation, ...]) -> list[Generation]:
    """Return the generations that saw all images."""
    return [generation for generation in history if not generation.early]


def _individuals(values: Tensor, chosen: Tensor) -> Tensor:
    """Return values[class, chosen[class, i]] as [classes, i, ...]."""
    return values[torch.arange(len(values))[:, None], chosen]


def _members(selections: Tensor, champion: Tensor) -> Tensor:
    return _individuals(selections, champion[:, None])[:, 0]


def _result(problem: SearchProblem, state: SearchState) -> SearchResult:
    return SearchResult(problem.classes, state.best, problem.channels.fingerprint, state.history)
