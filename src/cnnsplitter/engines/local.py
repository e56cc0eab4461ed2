"""Candidates in several processes of this machine.

The executors of the standard library end all their processes when one is killed, so that the work
of all of them is lost; here each process has a pipe of its own.
"""

import multiprocessing
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor

from cnnsplitter.engines.interrupts import delaying_interrupts
from cnnsplitter.engines.worker import MOST_DEATHS, OUT_OF_MEMORY, pack, scores_of, serve
from cnnsplitter.errors import EngineError, SettingsError
from cnnsplitter.scoring import CutScorer, equal_parts
from cnnsplitter.search import Scorer

_PRELOADED = ("torch", "cnnsplitter.engines.worker")
"""What the process that forks the workers imports once for all of them."""


@dataclass(frozen=True)
class Processes:
    """Runs candidates in ``workers`` processes, each on one thread.

    The strong model and the images lie in memory that all workers share. Workers are no forks of
    the program, so a script that uses them does so under ``if __name__ == "__main__":``.

    Attributes:
        workers: Number of processes, at least 1.
    """

    workers: int

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"workers must be at least 1, not {self.workers}")

    @contextmanager
    def spread(self, scorer: CutScorer) -> Iterator[Scorer]:
        """Start the workers; end them with the block, whatever happens in it."""
        pool = _Pool(scorer.portable(), str(scorer.device), self.workers)
        try:
            pool.start()
            yield pool
        finally:
            pool.close()


@dataclass
class _Process:
    """A worker process and what it is doing."""

    process: BaseProcess
    connection: Connection
    ready: bool = False
    part: int | None = None


@dataclass(eq=False)
class _Pool:
    """Hands parts of the candidates to whichever worker is free."""

    scorer: CutScorer
    device: str
    count: int
    workers: list[_Process] = field(default_factory=list)

    def start(self) -> None:
        while len(self.workers) < self.count:
            self.workers.append(self._start_one())

    def close(self) -> None:
        for worker in self.workers:
            worker.connection.close()
            worker.process.kill()
        for worker in self.workers:
            worker.process.join()
        self.workers.clear()

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Score candidates, see `CutScorer`."""
        self.start()
        try:
            return self._score(owner, keep, images)
        except BaseException:
            # what the others are doing would answer the next call
            self.close()
            raise

    def _score(self, owner: Tensor, keep: Tensor, images: int | None) -> Tensor:
        parts = equal_parts(len(owner), self.count)
        scores = torch.empty(len(owner), len(self.scorer.data) if images is None else images)
        waiting, missing = deque(range(len(parts))), len(parts)
        deaths: Counter[int | None] = Counter()
        while missing:
            for worker in self._free()[: len(waiting)]:
                worker.part = waiting.popleft()
                here = parts[worker.part]
                # one that has just died is noticed when its answer is awaited
                with suppress(OSError):
                    worker.connection.send(pack(owner[here], keep[here], images))
            for worker in self._answering():
                part, answer = self._receive(worker)
                if answer is None:
                    deaths[part] += 1
                    self._replace(worker, deaths[part])
                    waiting.extend([] if part is None else [part])
                elif part is not None:
                    scores[parts[part]] = answer
                    missing -= 1
        return scores

    def _free(self) -> list[_Process]:
        return [worker for worker in self.workers if worker.ready and worker.part is None]

    def _answering(self) -> list[_Process]:
        ready = wait([worker.connection for worker in self.workers])
        return [worker for worker in self.workers if worker.connection in ready]

    def _receive(self, worker: _Process) -> tuple[int | None, Tensor | None]:
        """Return the part that was finished, and its scores: None from a worker that died."""
        part, worker.part = worker.part, None
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):  # it may have died in the midst of its answer
            return part, None
        if not worker.ready:
            worker.ready = True
            return None, torch.empty(0)
        return part, scores_of(answer)

    def _replace(self, dead: _Process, deaths: int) -> None:
        dead.connection.close()
        dead.process.join()
        code = dead.process.exitcode or 0
        if not dead.ready and code >= 0 and code != OUT_OF_MEMORY:
            raise EngineError(
                "a worker process could not start; in a script, put what uses workers under "
                'if __name__ == "__main__":'
            )
        if deaths >= MOST_DEATHS:
            work = "at the same work" if dead.ready else "as they started"
            raise EngineError(f"{deaths} worker processes {_ended(code, work)}")
        self.workers[self.workers.index(dead)] = self._start_one()

    def _start_one(self) -> _Process:
        context = _context()
        mine, theirs = context.Pipe()
        process: BaseProcess = context.Process(
            target=serve, args=(theirs, self.scorer, self.device), daemon=True
        )
        try:
            _start(process)
        except BaseException:
            if process.pid is not None:
                process.kill()
            raise
        finally:
            theirs.close()
        return _Process(process, mine)


def _start(process: BaseProcess) -> None:
    with delaying_interrupts(), _shared_by_name():
        try:
            process.start()
        except Exception as error:  # pickling raises errors of many types
            raise EngineError(
                f"the network or the images cannot be sent to a worker process: {error}"
            ) from error


def _ended(code: int, work: str) -> str:
    if code == OUT_OF_MEMORY:
        return f"ran out of memory {work}; use fewer workers, a smaller network or smaller images"
    return f"ended {work} (exit code {code}); is there enough memory for so many workers?"


def _context() -> Any:
    """Return how processes are started: on Linux by a small one that has imported PyTorch already.

    That one runs no thread yet, so that its forks are safe; elsewhere system libraries are not.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


@contextmanager
def _shared_by_name() -> Iterator[None]:
    """Share tensors through names: through open files, a large network needs too many of them."""
    sharing: Any = torch.multiprocessing
    strategy = sharing.get_sharing_strategy()
    sharing.set_sharing_strategy("file_system")
    try:
        yield
    finally:
        sharing.set_sharing_strategy(strategy)
