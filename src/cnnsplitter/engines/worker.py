"""What runs in a worker process: a scorer that is placed once and then asked again and again."""

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnnsplitter.errors import CnnSplitterError, EngineError
from cnnsplitter.inference import is_out_of_memory
from cnnsplitter.scoring import CutScorer

MOST_DEATHS = 3
"""Workers that one task may cost: more are not chance but the task, such as too little memory."""

OUT_OF_MEMORY = 91
"""What a worker that had too little memory leaves as its exit code."""

Task = tuple[NDArray[np.int64], NDArray[np.uint8], int | None]
"""Owners, packed selections and the number of images, as they travel to a worker."""

Answer = NDArray[np.float32] | Exception


def pack(owner: Tensor, keep: Tensor, images: int | None = None) -> Task:
    """Turn candidates into what travels: plain arrays, with eight units to a byte."""
    return owner.numpy(), np.packbits(keep.numpy(), axis=1), images


class Worker:
    """A scorer on one thread of a process of its own."""

    def __init__(self, scorer: CutScorer, device: str) -> None:
        """Move the scorer's model to ``device``."""
        torch.set_num_threads(1)
        self.scorer = scorer if device == "cpu" else scorer.on(device)

    def ready(self) -> bool:
        """Answer, once everything is loaded."""
        return True

    def score(self, task: Task) -> NDArray[np.float32]:
        """Return the scores float32[k, n] of the candidates."""
        owner, packed, images = task
        units = self.scorer.channels.unit_count
        keep = np.unpackbits(packed, axis=1, count=units).astype(bool)
        scores = self.scorer(torch.tensor(owner), torch.from_numpy(keep), images)
        return scores.numpy()

    def score_or_end(self, task: Task) -> NDArray[np.float32]:
        """Return the scores like `score`; for want of memory, end the process."""
        with ending_without_memory():
            return self.score(task)


@contextmanager
def ending_without_memory() -> Iterator[None]:
    """End this process if the block runs out of memory: the next begins with all there is."""
    try:
        yield
    except Exception as error:
        if not _lacked_memory(error):
            raise
        # Cleaning up takes memory, too.
        os._exit(OUT_OF_MEMORY)


def _lacked_memory(error: BaseException) -> bool:
    """Return whether there was no memory left, or none even for one image."""
    return is_out_of_memory(error) or (
        error.__cause__ is not None and is_out_of_memory(error.__cause__)
    )


def serve(connection: Connection, scorer: CutScorer, device: str) -> None:
    """Answer the tasks that come through ``connection`` until the other end is closed."""
    # Ctrl-C reaches all processes of a terminal; the one that searches ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ending_without_memory(), connection:
        worker = Worker(scorer, device)
        with until_closed():
            connection.send(worker.ready())
            while True:
                connection.send(answer(worker, connection.recv()))


def answer(worker: Worker, task: Task) -> Answer:
    """Return the scores of the candidates, or the error that they cause but for want of memory."""
    try:
        return worker.score(task)
    except Exception as error:  # whatever it is, the search must hear of it
        if _lacked_memory(error):
            raise
        if isinstance(error, CnnSplitterError):
            return error
        unknown = EngineError(f"a worker process failed: {type(error).__name__}: {error}")
        unknown.add_note(traceback.format_exc())
        return unknown


@contextmanager
def until_closed() -> Iterator[None]:
    """End the block when the other end of a connection is closed, even amidst a message."""
    try:
        yield
    except (EOFError, OSError):
        return


def scores_of(answer: Answer) -> Tensor:
    """Return the scores float32[k, n] of a worker's answer, or raise the error that it holds."""
    if isinstance(answer, Exception):
        raise answer
    return torch.tensor(answer)
