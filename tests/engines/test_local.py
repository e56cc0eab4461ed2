import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hazards
import toys
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ArrayImages, ImageSet
from cnnsplitter.engines import InProcess, Processes
from cnnsplitter.engines.local import _Pool, _Process
from cnnsplitter.errors import DataError, EngineError, SettingsError
from cnnsplitter.scoring import CutScorer


def scorer_on(data: ImageSet) -> CutScorer:
    strong = toys.classifier("lenet5", width=0.5)
    return CutScorer(strong, toys.traced(strong), data, batch_size=16)


def candidates(scorer: CutScorer, count: int = 21) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    keep = [scorer.channels.random_selection(0.6, generator=generator).keep for _ in range(count)]
    return torch.arange(count) % 3, torch.stack(keep)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def children() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_threads_change_no_bit() -> None:
    scorer = scorer_on(toys.image_set(40))
    owner, keep = candidates(scorer)
    expected = torch.cat([scorer(owner[i : i + 1], keep[i : i + 1]) for i in range(len(owner))])
    for count in (1, 2, 5):
        with threads(count), InProcess().spread(scorer) as spread:
            assert torch.equal(spread(owner, keep), expected)
            assert torch.get_num_threads() == count


@pytest.mark.parametrize("workers", [1, 4])  # two are in the next test
def test_workers_change_no_bit_and_end_with_the_block(workers: int) -> None:
    # the set is a part of its store, which shows that the right images travel
    scorer = scorer_on(toys.image_set(60).take(torch.arange(7, 47)))
    owner, keep = candidates(scorer)
    before = children()
    with Processes(workers).spread(scorer) as spread:
        assert len(children() - before) == workers
        assert torch.equal(spread(owner, keep), scorer(owner, keep))
        assert torch.equal(spread(owner[:1], keep[:1]), scorer(owner[:1], keep[:1]))
        assert torch.equal(spread(owner, keep, 16), scorer(owner, keep)[:, :16])
        assert spread(owner[:0], keep[:0]).shape == (0, 40)
    assert children() == before


def test_a_killed_worker_costs_only_its_own_work(tmp_path: Path) -> None:
    data = toys.image_set(20)
    scorer, sound = scorer_on(hazards.deadly(data, tmp_path, deaths=1)), scorer_on(data)
    owner, keep = candidates(scorer)
    with Processes(2).spread(scorer) as spread:
        assert torch.equal(spread(owner, keep), sound(owner, keep))
        assert not list(tmp_path.iterdir())


def test_work_that_kills_every_worker_is_given_up(tmp_path: Path) -> None:
    scorer = scorer_on(hazards.deadly(toys.image_set(20), tmp_path, deaths=50))
    before = children()
    with (
        pytest.raises(EngineError, match=r"3 worker processes ended .*exit code -9.* memory"),
        Processes(1).spread(scorer) as spread,
    ):
        spread(*candidates(scorer))
    assert children() == before


def test_a_worker_out_of_memory_is_replaced(tmp_path: Path) -> None:
    """The system limits it; Python, NumPy, PyTorch and what halves batches each say so."""
    data = toys.image_set(20)
    scorer = scorer_on(hazards.starving(data, tmp_path, ("Python", "NumPy", "PyTorch", "halved")))
    owner, keep = candidates(scorer)
    expected = scorer_on(data)(owner, keep)
    with Processes(2).spread(scorer) as spread:
        assert torch.equal(spread(owner, keep), expected)
        assert not list(tmp_path.iterdir())
        assert torch.equal(spread(owner, keep), expected)


def test_work_that_never_has_enough_memory_is_given_up(tmp_path: Path) -> None:
    scorer = scorer_on(
        hazards.starving(toys.image_set(20), tmp_path, map("PyTorch {}".format, range(9)))
    )
    with (
        pytest.raises(EngineError, match=r"^3 worker .* ran out of memory at the same work; use"),
        Processes(1).spread(scorer) as spread,
    ):
        spread(*candidates(scorer))


@pytest.mark.parametrize(("deaths", "workers"), [(2, 2), (9, 1)])
def test_a_worker_killed_as_it_starts_is_replaced_but_not_for_ever(
    deaths: int, workers: int, tmp_path: Path
) -> None:
    data = toys.image_set(20)
    scorer = scorer_on(hazards.deadly(data, tmp_path, deaths, hazards.Fatal))
    owner, keep = candidates(scorer)
    with Processes(workers).spread(scorer) as spread:
        if deaths == 2:
            assert torch.equal(spread(owner, keep), scorer_on(data)(owner, keep))
            return
        with pytest.raises(EngineError, match=r"3 worker processes ended as they started \(.*-9"):
            spread(owner, keep)


def test_a_worker_killed_in_the_midst_of_its_answer_is_one_that_died() -> None:
    mine, theirs = multiprocessing.Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"half of it")
    theirs.close()
    dead = _Process(multiprocessing.Process(), mine, ready=True, part=3)
    pool = _Pool(scorer_on(toys.image_set(3)), "cpu", 1, [dead])
    assert pool._answering() == [dead]
    assert pool._receive(dead) == (3, None)


def test_ctrl_c_while_a_worker_starts_is_not_lost(tmp_path: Path) -> None:
    scorer = scorer_on(hazards.deadly(toys.image_set(20), tmp_path, 0, hazards.Interrupting))
    before, handler = children(), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Processes(2).spread(scorer):
        pass
    while children() != before:  # the one that had begun
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_an_error_of_a_worker_keeps_its_type_and_the_next_call_works() -> None:
    sound = scorer_on(toys.image_set(20))
    scorer = replace(sound, data=hazards.raising(sound.data, hazards.damaged()))
    with Processes(1).spread(scorer) as spread:
        for _ in range(2):
            with pytest.raises(DataError, match=r"bird.jpg: cannot be decoded"):
                spread(*candidates(scorer))


def test_a_memory_map_travels_as_its_place(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(30, 16, 16, 3), dtype=np.uint8)
    file = tmp_path / "pixels"
    pixels.tofile(file)
    mapped = np.memmap(file, np.uint8, "r", 0, pixels.shape)
    scorer = scorer_on(
        ImageSet.whole(ArrayImages("map", mapped), torch.arange(30) % 3, toys.CLASSES)
    )
    owner, keep = candidates(scorer, 4)
    expected = scorer(owner, keep)
    with Processes(1).spread(scorer) as spread:
        assert torch.equal(spread(owner, keep), expected)
        # the worker reads the file: what is changed in it changes the scores
        (255 - pixels).tofile(file)
        changed = spread(owner, keep)
    assert not torch.equal(changed, expected)
    assert torch.equal(changed, scorer(owner, keep))


def test_what_cannot_travel_is_refused() -> None:
    class Local(nn.Module):
        pass

    sound = scorer_on(toys.image_set(20))
    strong = Classifier(Local(), toys.CLASSES, toys.SHAPE)
    with (
        pytest.raises(EngineError, match=r"cannot be sent to a worker process: .*Local"),
        Processes(1).spread(replace(sound, strong=strong)),
    ):
        pass


@pytest.mark.parametrize("workers", [0, -1])
def test_a_number_of_workers_that_makes_no_sense_is_refused(workers: int) -> None:
    with pytest.raises(SettingsError, match="at least 1"):
        Processes(workers)


SCRIPT = """
import torch
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.engines import Processes
from cnnsplitter.scoring import CutScorer
# no worker comes as far as to need a channel map, which takes long to trace
images = ImageSet.from_arrays(torch.zeros(2, 1, 1, 1), torch.arange(2), ("a", "b"))
strong = Classifier(torch.nn.Flatten(), images.classes, (1, 1, 1))
with Processes(1).spread(CutScorer(strong, None, images)) as spread:
    spread(torch.zeros(1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.bool))
"""


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert 'put what uses workers under if __name__ == "__main__":' in done.stderr
