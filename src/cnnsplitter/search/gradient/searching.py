"""The gradient search: selections learned by gradient descent on masks.

GradSplitter's idea (arXiv 2311.04438), corrected: logits instead of sigmoids, all classes in one
batch, a budget instead of a penalty, and the best round returned instead of the last.
"""

from pathlib import Path

import torch
from torch import Generator, Tensor

from cnnsplitter.errors import SettingsError, require_seed
from cnnsplitter.interrupts import held_interrupts
from cnnsplitter.objective import composed_accuracy, kept_share, mean_difference
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.search.base import Generation, MaskedScorer, SearchProblem, SearchResult
from cnnsplitter.search.budget import Budget
from cnnsplitter.search.checkpoint import describe, digest
from cnnsplitter.search.gradient.gates import open_gates
from cnnsplitter.search.gradient.learned import Learned, learned_from
from cnnsplitter.search.gradient.settings import GradientSettings
from cnnsplitter.search.gradient.start import start_logits
from cnnsplitter.search.gradient.state import Adam, GradientState, Seen, load_state, save_state

_COLD = 0.05
"""Temperature of the gates after annealing; they are nearly closed or open then."""


class GradientSearch(GradientSettings):
    """Learns selections through masks that gradients flow through.

    Example:
        >>> GradientSearch(keep=0.4, rounds=20).keep
        0.4
        >>> GradientSearch.paper().form
        'sigmoid'
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
            problem: What to search; it must have ``masked``.
            seed: Seed of every random choice; equal seeds give equal results.
            checkpoint: File that is rewritten after each round. A search that was stopped and
                continued gives the same result, bit for bit; ``rounds`` may be raised.
            progress: Called after each round, and within a round after each step, with its loss.

        Raises:
            StorageError: The checkpoint is broken or belongs to another search.
            SettingsError: The problem has no masked scorer, or a seed that is none.
            ModelError: A class module gives scores that are not finite.
        """
        require_seed(seed)
        descent = _Descent.of(self, problem)
        settings = self.model_dump(mode="json", exclude={"rounds", "patience"})
        images = {"training labels": digest(descent.masked.labels)}
        identity = describe(problem, {}, {"seed": seed, **images, **settings})
        state = None
        if checkpoint is not None and checkpoint.exists():
            state = load_state(checkpoint, identity, self.rounds, problem)
        while state is None or not self._is_finished(state):
            state = descent.next_state(state or descent.start(seed), progress)
            with held_interrupts():
                if checkpoint is not None:
                    save_state(checkpoint, state, identity)
                progress(self._step(state))
        return SearchResult(
            problem.classes, state.best, problem.channels.fingerprint, state.history
        )

    def _is_finished(self, state: GradientState) -> bool:
        done = len(state.history)
        best = max(state.history, key=lambda entry: entry.measure)
        stalled = done - max(best.index + 1, self.anneal) >= self.patience > 0
        return done >= self.rounds or stalled

    def _step(self, state: GradientState) -> Step:
        last = state.history[-1]
        values = {
            "accuracy": last.accuracy,
            "best_accuracy": max(entry.accuracy for entry in state.history),
            "difference": last.difference,
            "kept": last.kept,
        }
        return Step("search", len(state.history), self.rounds, values)


class _Descent:
    """The fixed parts of one search; each round is a pure function of the state."""

    def __init__(
        self, settings: GradientSettings, problem: SearchProblem, masked: MaskedScorer
    ) -> None:
        self.settings = settings
        self.problem = problem
        self.masked = masked
        self.budget = Budget.of(problem, settings.target)

    @classmethod
    def of(cls, settings: GradientSettings, problem: SearchProblem) -> "_Descent":
        if problem.masked is None:
            raise SettingsError(
                "the gradient search needs training images: give the problem a masked scorer"
            )
        return cls(settings, problem, problem.masked)

    def start(self, seed: int) -> GradientState:
        """Return the state before the first round."""
        generator = Generator().manual_seed(seed)
        logits = start_logits(self.settings, self.problem, self.masked, self.budget, generator)
        values = learned_from(logits)
        keep = torch.zeros(logits.shape, dtype=torch.bool)
        seen = Seen.nothing(self.problem)
        return GradientState(Adam.at(values), generator.get_state(), keep, seen, ())

    def next_state(self, state: GradientState, progress: Progress) -> GradientState:
        """Return the state after one more round."""
        generator = Generator()
        generator.set_state(state.random)
        adam = state.adam
        for done in range(1, self.settings.steps + 1):
            adam, loss = self._descend(adam, generator)
            progress(Step("steps of the round", done, self.settings.steps, {"loss": loss}))
        keep = self.budget.best(Learned.read(adam.values).logits, self.settings.keep)
        seen, scores = state.seen.with_new(self.problem, keep)
        ran = len(seen.owner) - len(state.seen.owner)
        entry = self._record(keep, scores, len(state.history), ran)
        best = max((past.measure for past in state.history), default=-1.0)
        return GradientState(
            adam,
            generator.get_state(),
            keep if entry.measure > best else state.best,
            seen,
            (*state.history, entry),
        )

    def _descend(self, adam: Adam, generator: Generator) -> tuple[Adam, float]:
        settings, masked = self.settings, self.masked
        progress = int(adam.steps) / settings.steps
        pairs = settings.draw(masked, generator)
        with torch.enable_grad():
            values = adam.values.clone().requires_grad_()
            learned = Learned.read(values)
            keep = self.budget.best(learned.logits.detach(), self._share(progress))
            masks = open_gates(
                settings.gate, learned.logits, keep, heat=self._heat(progress), generator=generator
            )
            owner = pairs.classes.flatten()
            images = pairs.images.repeat_interleave(pairs.classes.shape[1])
            scores = masked(images, owner, masks[owner]).cpu().view_as(pairs.classes)
            scaled = learned.scaled(scores, pairs.classes) if settings.scaled else scores
            loss = pairs.loss(scores, scaled, settings.form)
            (gradient,) = torch.autograd.grad(loss, values)
        return adam.step(gradient, self._rate(progress)), loss.item()

    def _share(self, progress: float) -> float:
        return 1 - (1 - self.settings.keep) * self._annealed(progress)

    def _heat(self, progress: float) -> float:
        return float(_COLD ** self._annealed(progress))

    def _annealed(self, progress: float) -> float:
        return min(1.0, progress / self.settings.anneal) if self.settings.anneal else 1.0

    def _rate(self, progress: float) -> float:
        past = max(0.0, progress - self.settings.anneal)
        return float(self.settings.rate * 0.5 ** (past / self.settings.cooling))

    def _record(self, keep: Tensor, scores: Tensor, index: int, evaluations: int) -> Generation:
        kernels = self.problem.channels.kernels_per_unit
        accuracy = composed_accuracy(scores, self.problem.labels)
        return Generation(
            index=index,
            accuracy=accuracy,
            difference=mean_difference(keep, kernels),
            kept=kept_share(keep, kernels).mean().item(),
            fitness=accuracy,
            measure=accuracy if self.settings.best == "accuracy" else float(index),
            evaluations=evaluations,
            kept_macs=self.problem.kept_macs(keep),
        )
