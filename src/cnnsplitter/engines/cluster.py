"""Candidates on the machines of a Ray cluster (docs/many-machines.md)."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnsplitter.engines.worker import MOST_DEATHS, Worker, pack, scores_of
from cnnsplitter.errors import EngineError, SettingsError, first_line
from cnnsplitter.extras import require_extra
from cnnsplitter.scoring import CutScorer, equal_parts
from cnnsplitter.search import Scorer

_PATIENCE = 5.0
"""Seconds to wait for the places of workers that have just ended."""


@dataclass(frozen=True)
class RayCluster:
    """Runs candidates in Ray actors, each on one core, or one GPU if the strong model is on one.

    Model and images go to every machine once. An actor that dies, or ends for want of memory, is
    started again by Ray, on another machine if its own is gone, and only what it was doing is done
    again.

    Attributes:
        workers: Number of actors; None takes one for each core, or GPU, of the cluster.
        address: Address of a running cluster, such as ``"auto"`` or ``"ray://head:10001"``; None
            uses the cluster that the program is connected to, or starts Ray on this machine.
    """

    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise SettingsError(f"workers must be at least 1, not {self.workers}")

    @contextmanager
    def spread(self, scorer: CutScorer) -> Iterator[Scorer]:
        """Start the actors; end them with the block, and Ray too if it was started here."""
        ray = _import_ray()
        started_here = not ray.is_initialized()
        if started_here:
            _connect(ray, self.address, self.workers)
        try:
            with _actors(ray, scorer, self.workers) as actors:
                yield _Spread(ray, actors, len(scorer.data))
        finally:
            if started_here:
                ray.shutdown()


@dataclass(frozen=True, eq=False)
class _Spread:
    ray: Any
    actors: list[Any]
    images: int

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Score candidates, see `CutScorer`."""
        pool = self.ray.util.ActorPool(self.actors)
        parts = equal_parts(len(owner), len(self.actors))
        tasks = [pack(owner[part], keep[part], images) for part in parts]
        scores = torch.empty(len(owner), self.images if images is None else images)
        with _typed_errors(self.ray), _given_up(self.ray):
            answers = pool.map(lambda actor, task: actor.score_or_end.remote(task), tasks)
            for part, answer in zip(parts, answers, strict=True):
                scores[part] = scores_of(answer)
        return scores


@contextmanager
def _actors(ray: Any, scorer: CutScorer, count: int | None) -> Iterator[list[Any]]:
    device = scorer.device.type
    kind = "CPU" if device == "cpu" else "GPU"
    free = _free(ray, kind, count or 1)
    if free < (count or 1):
        raise EngineError(
            f"the Ray cluster has {free} free {kind}s for {count or 1} workers; ask for fewer "
            "workers or add machines"
        )
    options = {"num_cpus": 1, "num_gpus": int(kind == "GPU")}
    # Ray gives the task of an actor that died to the one that takes its place
    actor = ray.remote(max_restarts=-1, max_task_retries=MOST_DEATHS - 1, **options)(Worker)
    placed = ray.put(scorer.portable())
    actors = [actor.remote(placed, device) for _ in range(count or free)]
    try:
        with _typed_errors(ray):
            ray.get([actor.ready.remote() for actor in actors])
        yield actors
    finally:
        for one in actors:
            ray.kill(one)


def _free(ray: Any, kind: str, wanted: int) -> int:
    """Return how many CPUs or GPUs are free; Ray counts those of actors that just ended late."""
    until = time.monotonic() + _PATIENCE
    while True:
        free = int(ray.available_resources().get(kind, 0))
        if free >= wanted or time.monotonic() > until:
            return free
        time.sleep(0.1)


@contextmanager
def _typed_errors(ray: Any) -> Iterator[None]:
    """Raise what a worker raised, without Ray's wrapping."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise EngineError(f"the Ray cluster failed: {first_line(error)}") from error


@contextmanager
def _given_up(ray: Any) -> Iterator[None]:
    """Say what it is when Ray has tried a task often enough."""
    try:
        yield
    except ray.exceptions.RayActorError as error:
        raise EngineError(
            f"{MOST_DEATHS} workers of the Ray cluster ended at the same work; is there enough "
            "memory for so many workers?"
        ) from error


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "include_dashboard": False, "num_cpus": workers}
    try:
        with _reporting_nothing():
            ray.init(**options, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"no Ray at {address or 'local'}: {first_line(error)}") from error


@contextmanager
def _reporting_nothing() -> Iterator[None]:
    """Let what is started report nothing to anyone unless the user wants it."""
    name = "RAY_USAGE_STATS_ENABLED"
    if name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        del os.environ[name]


def _import_ray() -> Any:
    require_extra("ray", "ray.util")
    import ray

    return ray
