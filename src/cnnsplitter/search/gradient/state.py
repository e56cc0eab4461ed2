"""The state of a gradient search between two rounds, on disk and in memory."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from cnnsplitter.errors import ModelError
from cnnsplitter.files import write_tensors
from cnnsplitter.search.base import Generation, SearchProblem
from cnnsplitter.search.checkpoint import (
    BYTES,
    Kinds,
    parse_history,
    read_checkpoint,
    require_within,
)

KIND = "gradient search checkpoint"


@dataclass(frozen=True, eq=False)
class Adam:
    """Parameters that follow a gradient (Kingma and Ba, Adam, algorithm 1).

    Attributes:
        values: float32[classes, units + 2], see `gradient_learned`.
        mean: Running mean of the gradient.
        square: Running mean of its square.
        steps: int64[], steps taken.
    """

    values: Tensor
    mean: Tensor
    square: Tensor
    steps: Tensor

    @classmethod
    def at(cls, values: Tensor) -> Self:
        """Return the start."""
        return cls(values, torch.zeros_like(values), torch.zeros_like(values), torch.tensor(0))

    def step(self, gradient: Tensor, rate: float) -> Self:
        """Return the parameters after one step."""
        steps = self.steps + 1
        mean = self.mean.lerp(gradient, 0.1)
        square = self.square.lerp(gradient.square(), 0.01)
        deviation = (square / (1 - 0.99**steps)).sqrt() + 1e-12
        values = self.values - rate * mean / (1 - 0.9**steps) / deviation
        return replace(self, values=values, mean=mean, square=square, steps=steps)


@dataclass(frozen=True, eq=False)
class Seen:
    """The class modules that were run on the search images.

    Attributes:
        owner: int64[k].
        keep: bool[k, units].
        scores: float32[k, n].
    """

    owner: Tensor
    keep: Tensor
    scores: Tensor

    @classmethod
    def nothing(cls, problem: SearchProblem) -> Self:
        """Return the start."""
        units, images = problem.channels.unit_count, len(problem.labels)
        return cls(
            torch.zeros(0, dtype=torch.int64),
            torch.zeros(0, units, dtype=torch.bool),
            torch.zeros(0, images),
        )

    def with_new(self, problem: SearchProblem, keep: Tensor) -> tuple[Self, Tensor]:
        """Return the scores float32[classes, n] of ``keep`` bool[classes, units].

        What was run before is not run again.

        Raises:
            ModelError: Scores that are not finite.
        """
        classes = torch.arange(len(keep))
        known = [len(self._places(owner, keep[owner])) > 0 for owner in classes]
        fresh = classes[~torch.tensor(known)]
        grown = self
        if len(fresh):
            scores = problem.scorer(fresh, keep[fresh]).float()
            if not scores.isfinite().all():
                raise ModelError(
                    "a class module gives scores that are not finite; check the strong model's "
                    "weights and the search images"
                )
            grown = type(self)(
                torch.cat([self.owner, fresh]),
                torch.cat([self.keep, keep[fresh]]),
                torch.cat([self.scores, scores]),
            )
        places = [grown._places(owner, keep[owner])[0] for owner in classes]
        return grown, grown.scores[torch.stack(places)]

    def _places(self, owner: Tensor, keep: Tensor) -> Tensor:
        return ((self.owner == owner) & (self.keep == keep).all(dim=1)).nonzero().flatten()


@dataclass(frozen=True, eq=False)
class GradientState:
    """Everything that the next round depends on.

    Attributes:
        adam: What is learned.
        random: State of the search's generator after this round.
        best: bool[classes, units], the best selections of all rounds.
        seen: The class modules that were run.
        history: One entry per round.
    """

    adam: Adam
    random: Tensor
    best: Tensor
    seen: Seen
    history: tuple[Generation, ...]


def save_state(path: Path, state: GradientState, identity: Mapping[str, Any]) -> None:
    """Write the state, replacing the one before in one step.

    Raises:
        StorageError: The file cannot be written.
    """
    tensors = {"random": state.random, "best": state.best}
    tensors |= {f"adam.{name}": tensor for name, tensor in vars(state.adam).items()}
    tensors |= {f"seen.{name}": tensor for name, tensor in vars(state.seen).items()}
    history = [asdict(generation) for generation in state.history]
    write_tensors(path, tensors, {"kind": KIND, "search": dict(identity), "history": history})


def load_state(
    path: Path, identity: Mapping[str, Any], rounds: int, problem: SearchProblem
) -> GradientState:
    """Read a state back.

    Args:
        path: The checkpoint.
        identity: What `checkpoint.describe` says of this search.
        rounds: Rounds that this search may run.
        problem: What it searches.

    Raises:
        StorageError: The file is broken, another search's, or further than this search goes.
    """
    state = read_checkpoint(path, KIND, identity, _kinds(problem), _parse)
    require_within(path, len(state.history), rounds, "rounds")
    return state


def _kinds(problem: SearchProblem) -> Kinds:
    classes, units = problem.importance.shape
    learned = (torch.float32, (classes, units + 2))
    return {
        **{f"adam.{name}": learned for name in ("values", "mean", "square")},
        "adam.steps": (torch.int64, ()),
        "random": BYTES,
        "best": (torch.bool, (classes, units)),
        "seen.owner": (torch.int64, (None,)),
        "seen.keep": (torch.bool, (None, units)),
        "seen.scores": (torch.float32, (None, len(problem.labels))),
    }


def _parse(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> GradientState:
    def part(prefix: str, names: tuple[str, ...]) -> dict[str, Tensor]:
        return {name: tensors[f"{prefix}.{name}"] for name in names}

    if len({len(tensors[f"seen.{name}"]) for name in ("owner", "keep", "scores")}) > 1:
        raise ValueError("class modules that were run are not whole")
    return GradientState(
        adam=Adam(**part("adam", ("values", "mean", "square", "steps"))),
        random=tensors["random"],
        best=tensors["best"],
        seen=Seen(**part("seen", ("owner", "keep", "scores"))),
        history=parse_history(manifest["history"]),
    )
