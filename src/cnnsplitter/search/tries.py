"""Searches that draw a fixed number of ensembles, none learning from another, and keep the best."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor

from cnnsplitter.errors import ModelError, require_seed
from cnnsplitter.files import write_tensors
from cnnsplitter.interrupts import held_interrupts
from cnnsplitter.objective import composed_accuracy, kept_share, mean_difference
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.search.base import Generation, SearchProblem, SearchResult
from cnnsplitter.search.budget import Target
from cnnsplitter.search.checkpoint import Kinds, describe, read_checkpoint, require_within

KIND = "checkpoint of tries"


@dataclass(frozen=True, eq=False)
class Tries:
    """The ensembles tried so far.

    Attributes:
        keep: bool[tries, classes, units].
        scores: float32[tries, classes, n].
        evaluations: int64[tries], class modules that each try has run.
    """

    keep: Tensor
    scores: Tensor
    evaluations: Tensor

    def with_new(self, keep: Tensor, problem: SearchProblem) -> "Tries":
        """Return the tries with one more; class modules that were tried before are not run again.

        Args:
            keep: bool[classes, units].
            problem: Scores them.
        """
        same = (self.keep == keep).all(dim=2)
        scores = torch.zeros(len(keep), len(problem.labels))
        for owner in range(len(keep)):
            earlier = same[:, owner].nonzero().flatten()
            if len(earlier):
                scores[owner] = self.scores[earlier[0], owner]
        fresh = (~same.any(dim=0)).nonzero().flatten()
        if len(fresh):
            scores[fresh] = problem.scorer(fresh, keep[fresh]).float()
        if not scores.isfinite().all():
            raise ModelError(
                "a class module gives scores that are not finite; check the strong model's "
                "weights and the search images"
            )
        parts = (keep, scores, torch.tensor(len(fresh)))
        olds = (self.keep, self.scores, self.evaluations)
        return Tries(*(torch.cat([old, new[None]]) for old, new in zip(olds, parts, strict=True)))

    def entry(self, index: int, problem: SearchProblem) -> Generation:
        """Return the entry of one try; the fitness is the accuracy, as all tries cost the same."""
        kernels, keep = problem.channels.kernels_per_unit, self.keep[index]
        accuracy = composed_accuracy(self.scores[index], problem.labels)
        return Generation(
            index=index,
            accuracy=accuracy,
            difference=mean_difference(keep, kernels),
            kept=kept_share(keep, kernels).mean().item(),
            fitness=accuracy,
            measure=accuracy,
            evaluations=int(self.evaluations[index]),
            kept_macs=problem.kept_macs(keep),
        )


class BestOfTries(BaseModel, ABC):
    """A search that draws ensembles within a budget and returns the most accurate.

    Attributes:
        keep: Share of the whole network's cost that every class module may keep.
        target: What the cost counts: ``"kernels"``, the selectable ones, or ``"multiply-adds"`` of
            one image.
        tries: Ensembles that are drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    target: Target = "kernels"
    tries: int = Field(default=1, ge=1)

    @abstractmethod
    def draw(self, problem: SearchProblem, number: int, generator: Generator) -> Tensor:
        """Return the selections bool[classes, units] of one try, counted from 0."""

    @property
    def needs_sensitivity(self) -> bool:
        """Start ratios are not used."""
        return False

    @property
    def needs_importance(self) -> bool:
        """Whether the units are ranked by it."""
        return True

    def run(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        checkpoint: Path | None = None,
        progress: Progress = silent,
    ) -> SearchResult:
        """Draw and score ensembles, continuing from ``checkpoint`` if that file exists.

        Args:
            problem: What to search.
            seed: Seed of every random choice; equal seeds give equal results.
            checkpoint: File that is rewritten after each try; ``tries`` may be raised.
            progress: Called after each try.

        Raises:
            StorageError: The checkpoint is broken or belongs to another search.
            SettingsError: A seed that is none, or a target in multiply-adds for a problem without a
                masked scorer.
            ModelError: A class module gives scores that are not finite.
        """
        require_seed(seed)
        # checkpoints of before there was a choice name no target
        unnamed = {"tries"} | ({"target"} if self.target == "kernels" else set())
        settings = self.model_dump(mode="json", exclude=unnamed)
        name = type(self).__name__
        identity = describe(problem, {}, {"search": name, "seed": seed, **settings})
        done = _nothing_tried(problem)
        if checkpoint is not None and checkpoint.exists():
            done = _load(checkpoint, identity, problem, self.tries)
        history = [done.entry(number, problem) for number in range(len(done.keep))]
        for number in range(len(done.keep), self.tries):
            generator = torch.Generator().manual_seed(_seed_of(seed, number))
            done = done.with_new(self.draw(problem, number, generator), problem)
            history.append(done.entry(number, problem))
            with held_interrupts():
                if checkpoint is not None:
                    _save(checkpoint, done, identity)
                progress(self._step(history))
        best = max(history, key=lambda entry: entry.measure)
        return SearchResult(
            problem.classes, done.keep[best.index], problem.channels.fingerprint, tuple(history)
        )

    def _step(self, history: Sequence[Generation]) -> Step:
        last = history[-1]
        values = {
            "accuracy": last.accuracy,
            "best_accuracy": max(entry.accuracy for entry in history),
            "difference": last.difference,
            "kept": last.kept,
        }
        return Step("search", last.index + 1, self.tries, values)


def _nothing_tried(problem: SearchProblem) -> Tries:
    classes, units = problem.importance.shape
    return Tries(
        torch.zeros(0, classes, units, dtype=torch.bool),
        torch.zeros(0, classes, len(problem.labels)),
        torch.zeros(0, dtype=torch.int64),
    )


def _kinds(problem: SearchProblem) -> Kinds:
    nothing = vars(_nothing_tried(problem))
    return {name: (tensor.dtype, (None, *tensor.shape[1:])) for name, tensor in nothing.items()}


def _seed_of(seed: int, number: int) -> int:
    """Return the seed of one try, so that a later try does not depend on how many came before."""
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def _save(path: Path, done: Tries, identity: dict[str, Any]) -> None:
    write_tensors(path, vars(done), {"kind": KIND, "search": identity})


def _load(path: Path, identity: dict[str, Any], problem: SearchProblem, tries: int) -> Tries:
    def parse(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> Tries:
        if len({len(tensor) for tensor in tensors.values()}) != 1:
            raise ValueError("its tries are not whole")
        return Tries(**tensors)

    done = read_checkpoint(path, KIND, identity, _kinds(problem), parse)
    require_within(path, len(done.keep), tries, "tries")
    return done
