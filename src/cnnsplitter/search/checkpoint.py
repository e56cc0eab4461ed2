"""The state of a genetic search between two generations, on disk and in memory."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.search.base import Generation, SearchProblem
from cnnsplitter.search.novelty import DIGEST_SIZE

KIND = "genetic search checkpoint"
State = TypeVar("State")
Kinds = Mapping[str, tuple[torch.dtype, tuple[int | None, ...]]]
"""Type and shape of each tensor of a checkpoint; None for any size."""
BYTES: tuple[torch.dtype, tuple[int | None, ...]] = (torch.uint8, (None,))


@dataclass(frozen=True, eq=False)
class SearchState:
    """Everything that the next generation depends on.

    Attributes:
        genes: bool[classes, population, genes] of the living population.
        elite_scores: float32[classes, elites, n], the own-class scores of those of them that live
            on; the others' are not needed again.
        fitness: float64[classes, population].
        champion: int64[classes], members of the generation's best ensemble.
        best: bool[classes, units], the best selections of all generations.
        random: State of the search's generator after this generation.
        seen: Digests of all selections that have been run.
        history: One entry per generation.
    """

    genes: Tensor
    elite_scores: Tensor
    fitness: Tensor
    champion: Tensor
    best: Tensor
    random: Tensor
    seen: frozenset[bytes]
    history: tuple[Generation, ...]


_TENSORS = ("genes", "elite_scores", "fitness", "champion", "best", "random")


def describe(
    problem: SearchProblem, ratios: Mapping[str, tuple[float, ...]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the JSON values that two runs must share for one to continue the other."""
    return {
        "network": problem.channels.fingerprint,
        "classes": list(problem.classes),
        "labels": digest(problem.labels),
        "importance": digest(problem.importance),
        **({} if problem.start is None else {"start": digest(problem.start)}),
        "start ratios": {name: list(values) for name, values in ratios.items()},
        **settings,
    }


def save_state(path: Path, state: SearchState, identity: Mapping[str, Any]) -> None:
    """Write the state, replacing the one before in one step.

    Raises:
        StorageError: The file cannot be written.
    """
    seen = torch.frombuffer(bytearray(b"".join(sorted(state.seen))), dtype=torch.uint8)
    tensors = {name: getattr(state, name) for name in _TENSORS} | {"seen": seen}
    history = [asdict(generation) for generation in state.history]
    write_tensors(path, tensors, {"kind": KIND, "search": dict(identity), "history": history})


def load_state(
    path: Path, identity: Mapping[str, Any], generations: int, kinds: Kinds
) -> SearchState:
    """Read a state back.

    Args:
        path: The checkpoint.
        identity: What `describe` says of this search.
        generations: Generations that this search may run.
        kinds: Of the tensors of this search's states.

    Raises:
        StorageError: The file is broken, another search's, or further than this search goes.
    """
    state = read_checkpoint(path, KIND, identity, {**kinds, "seen": BYTES}, _parse)
    require_within(path, len(state.history), generations, "generations")
    return state


def _parse(tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> SearchState:
    population = tensors["genes"].shape[1]
    if not ((tensors["champion"] >= 0) & (tensors["champion"] < population)).all():
        raise ValueError("a champion that does not live")
    seen = tensors["seen"].numpy().tobytes()
    digests = (seen[at : at + DIGEST_SIZE] for at in range(0, len(seen), DIGEST_SIZE))
    return SearchState(
        **{name: tensors[name] for name in _TENSORS},
        seen=frozenset(digests),
        history=parse_history(manifest["history"]),
    )


def read_checkpoint(
    path: Path,
    kind: str,
    identity: Mapping[str, Any],
    kinds: Kinds,
    parse: Callable[[Mapping[str, Tensor], Mapping[str, Any]], State],
) -> State:
    """Read the state of a search back.

    Args:
        path: The checkpoint.
        kind: What it must say it is.
        identity: What ``describe`` says of this search.
        kinds: Type and shape that the tensors must have; there may be no others.
        parse: Makes a state of the file's tensors and manifest.

    Raises:
        StorageError: The file is broken or another search's.
    """
    tensors, manifest = read_tensors(path)
    if manifest.get("kind") != kind:
        raise StorageError(f"{path} is not a {kind}; name another file")
    try:
        require_same(path, manifest["search"], identity)
        for name, (dtype, shape) in kinds.items():
            _require_kind(name, tensors[name], dtype, shape)
        if more := sorted(tensors.keys() - kinds):
            raise ValueError(f"tensor {more[0]!r} has no place in it")
        if "random" in kinds:
            torch.Generator().set_state(tensors["random"])
        return parse(tensors, manifest)
    except KeyError as error:
        raise StorageError(f"{path} is broken ({error} is missing); delete it") from error
    except (TypeError, AttributeError, ValueError, RuntimeError, LookupError) as error:
        raise StorageError(f"{path} is broken ({error}); delete it and start again") from error


def parse_history(entries: Any) -> tuple[Generation, ...]:
    """Return the history that a manifest holds; ``ValueError`` or ``TypeError`` if it is none."""
    history = tuple(Generation(**entry) for entry in entries)
    told = [pair for entry in history for pair in vars(entry).items()]
    numbers = [value for pair in told if pair != ("kept_macs", None) for value in pair[1:]]
    if not history or [entry.index for entry in history] != list(range(len(history))):
        raise ValueError("its history is not whole")
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
        raise ValueError("its history holds what is no number")
    return history


def _require_kind(
    name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int | None, ...]
) -> None:
    fits = tensor.ndim == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    if tensor.dtype != dtype or not fits:
        raise ValueError(f"tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}")
    if tensor.is_floating_point() and not tensor.isfinite().all():
        raise ValueError(f"tensor {name!r} holds NaN or infinite values")


def require_within(path: Path, done: int, most: int, steps: str) -> None:
    """Raise ``StorageError`` if a checkpoint is further than this search goes.

    Args:
        path: The checkpoint.
        done: Steps that it holds.
        most: Steps after which this search ends.
        steps: What the search calls them, and the setting that says how many.
    """
    if done > most:
        raise StorageError(
            f"{path} holds {done} {steps}, this search ends after {most}; "
            f"raise {steps} or name another file"
        )


def require_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``StorageError`` unless what ``describe`` said of two searches is the same."""
    keys = sorted({*found, *wanted})
    differing = [key for key in keys if found.get(key) != wanted.get(key)]
    if differing:
        raise StorageError(
            f"{path} belongs to another search, with different {', '.join(differing)}; "
            "use the same ones or name another file"
        )


def digest(tensor: Tensor) -> str:
    """Return the SHA-256 of a tensor's values."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
