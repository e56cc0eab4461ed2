import os
import struct
from dataclasses import replace
from multiprocessing import Pipe

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import toys
from cnnsplitter.engines.worker import Worker, answer, pack, scores_of, until_closed
from cnnsplitter.errors import EngineError
from cnnsplitter.scoring import CutScorer


def worker() -> Worker:
    strong = toys.classifier("lenet5")
    return Worker(CutScorer(strong, toys.traced(strong), toys.image_set(5)), "cpu")


@given(st.integers(1, 6))
def test_what_travels_gives_the_scores_of_the_scorer(count: int) -> None:
    here = worker()
    generator = torch.Generator().manual_seed(count)
    keep = [
        here.scorer.channels.random_selection(0.5, generator=generator).keep for _ in range(count)
    ]
    owner, selections = torch.arange(count) % 3, torch.stack(keep)
    task = pack(owner, selections)
    assert task[1].nbytes <= count * (selections.shape[1] // 8 + 1)
    mine, theirs = Pipe()
    theirs.send(answer(here, task))
    assert torch.equal(scores_of(mine.recv()), here.scorer(owner, selections))


def test_an_unexpected_error_says_where_it_came_from() -> None:
    here = worker()
    task = pack(torch.zeros(1, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool))
    mine, theirs = Pipe()
    theirs.send(answer(Worker(replace(here.scorer, batch_size=0), "cpu"), task))
    with pytest.raises(EngineError, match="a worker process failed: ValueError: ") as found:
        scores_of(mine.recv())
    assert "Traceback" in found.value.__notes__[0]


def test_scores_do_not_share_memory_with_the_message() -> None:
    message = np.ones((1, 2), np.float32)
    scores_of(message)[:] = 0
    assert message.all()


def test_a_task_that_breaks_off_ends_the_work() -> None:
    """The search was stopped while it sent it."""
    mine, theirs = Pipe()
    os.write(mine.fileno(), struct.pack("!i", 1000) + b"half of it")
    mine.close()
    with until_closed():
        theirs.recv()
        raise AssertionError("read")
