"""Killed at any moment and run again: the same files to the last byte, and never half a one."""

import errno
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toys
from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.folder_lock import LOCK, held
from cnnsplitter.pipeline import Run, save_modules
from cnnsplitter.results import read_json, write_json
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import split
from shop import call
from test_pipeline import DIGITS, contents, finish, images_of, small, untimed

Work = Callable[[Path], None]
FORKED = multiprocessing.get_context("fork")
"""So that what is killed need not import everything first."""
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch cannot fork beside a GPU"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("data") / "svhn.npz"
    (x, y), (more, theirs) = images_of(10, 20, 0), images_of(10, 4, 1)
    np.savez(path, x_train=x, y_train=y, x_test=more, y_test=theirs, classes=np.array(DIGITS))
    return {"svhn": str(path)}


@pytest.fixture(params=["run", "gradient"])
def work(request: pytest.FixtureRequest, place: dict[str, str]) -> Work:
    """A whole run with the genetic search, and a split with the gradient search."""
    return gradient if request.param == "gradient" else lambda folder: whole(folder, place)


def whole(folder: Path, place: dict[str, str]) -> None:
    """Train, split, patch and report as ``cnnsplitter run`` does."""
    with held(folder):
        finish(Run(small(), folder, place))


def gradient(folder: Path) -> None:
    search = GradientSearch(keep=0.5, rounds=3, steps=3, anneal=2)
    data, strong = toys.splits(24), toys.classifier()
    found = split(strong, data, search=search, seed=0, checkpoint=folder / "search.checkpoint")
    save_modules(found, folder / "modules", {"seed": 0})


def killed(work: Work, folder: Path, seconds: float) -> bool:
    """Do the work in another process; kill it after some time; return whether it was in it."""
    process = FORKED.Process(target=work, args=(folder,))
    process.start()
    process.join(seconds)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def killed_writing(work: Work, folder: Path, number: int, *, before: bool) -> bool:
    """Likewise, but right before or after the file ``number`` takes its place."""

    def doomed(folder: Path) -> None:
        replace, left = os.replace, [number]

        def last(source: Any, target: Any) -> None:
            left[0] -= 1
            if left[0] < 0 and before:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = last
        work(folder)

    return killed(doomed, folder, 300)


def assert_whole(folder: Path) -> None:
    """What can be seen is whole, whenever the writer was killed."""
    for path in folder.rglob("*"):
        if path.suffix in (".safetensors", ".checkpoint") and path.name[0] != ".":
            read_tensors(path)
        if path.suffix == ".json":
            json.loads(path.read_text())


def final(folder: Path) -> tuple[Any, ...]:
    report = untimed(folder) if (folder / "report.json").exists() else None
    return contents(folder), report


def check_kills(work: Work, folder: Path, moments: Callable[[float], Iterator[float]]) -> int:
    """Kill one run over and over again; return how often it was in its work."""
    begun = time.monotonic()
    work(folder / "whole")
    seconds, hits = time.monotonic() - begun, 0
    for moment in moments(seconds):
        hits += killed(work, folder / "killed", moment)
        assert_whole(folder / "killed")
    work(folder / "killed")
    assert final(folder / "killed") == final(folder / "whole")
    return hits


def test_killed_twice_at_random_moments(work: Work, tmp_path: Path) -> None:
    chance = random.Random(0)
    check_kills(work, tmp_path, lambda whole: (whole * chance.random() for _ in range(2)))


@pytest.mark.parametrize(("number", "before"), [(0, True), (1, False), (6, True), (9, False)])
def test_killed_while_a_file_takes_its_place(
    number: int, before: bool, work: Work, tmp_path: Path
) -> None:
    assert killed_writing(gradient, tmp_path / "killed", number, before=before) or number > 5
    assert_whole(tmp_path / "killed")
    gradient(tmp_path / "killed")
    gradient(tmp_path / "whole")
    assert final(tmp_path / "killed") == final(tmp_path / "whole")


@pytest.mark.large
def test_killed_at_a_hundred_random_moments(work: Work, tmp_path: Path) -> None:
    """Each tenth of the kills is of a run of its own, so that all stages are hit."""
    chance, hits = random.Random(1), 0
    for number in range(5):
        folder = tmp_path / str(number)
        hits += check_kills(work, folder, lambda s: (s * chance.random() for _ in range(10)))
    assert hits >= 25


def test_what_a_killed_run_left_keeps_no_other_from_its_folder(
    place: dict[str, str], tmp_path: Path
) -> None:
    """Killed before its first file was there: only half of that lies about."""
    run = lambda folder: Run(small(), folder, place).prepare()  # noqa: E731
    assert killed_writing(run, tmp_path, 0, before=True)
    assert [path.name.split(".")[-1] for path in tmp_path.iterdir()] == ["tmp"]
    run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


class TestOneAtATime:
    """Two runs in one folder."""

    def test_the_second_is_refused_with_the_process_of_the_first(self, tmp_path: Path) -> None:
        ready = tmp_path / "ready"

        def hold(folder: Path) -> None:
            with held(folder):
                ready.touch()
                time.sleep(300)

        first = FORKED.Process(target=hold, args=(tmp_path / "run",))
        first.start()
        while not ready.exists():
            time.sleep(0.01)
        with (
            pytest.raises(StorageError, match=f"run: process {first.pid} runs in it"),
            held(tmp_path / "run"),
        ):
            pass
        refused = call("run", "demo", "--out", tmp_path / "run")
        assert refused.code == 2
        assert f"process {first.pid} runs in it" in refused.err
        os.kill(first.pid or 0, signal.SIGKILL)
        first.join()
        assert (tmp_path / "run" / LOCK).exists(), "stale"
        with held(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).read_text() == str(os.getpid())
        assert not (tmp_path / "run" / LOCK).exists()

    def test_a_folder_that_stays_empty_is_removed(self, tmp_path: Path) -> None:
        with held(tmp_path / "a" / "b"):
            assert (tmp_path / "a" / "b").is_dir()
        assert not (tmp_path / "a" / "b").exists()
        with held(tmp_path):
            pass
        assert tmp_path.is_dir()

    def test_a_place_that_cannot_be_locked_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StorageError, match="file: cannot be written"), held(tmp_path / "file"):
            pass


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path) -> None:
    tensors, facts = tmp_path / "a.safetensors", tmp_path / "a.json"
    write_tensors(tensors, {"t": torch.ones(3)}, {"n": 1})
    write_json(facts, [1])
    with small_disk(4096):
        with pytest.raises(StorageError, match=r"a\.safetensors: cannot be written \(.*(arge|27)"):
            write_tensors(tensors, {"t": torch.ones(30_000)}, {"n": 2})
        with pytest.raises(StorageError, match=r"a\.json: cannot be written \(File too large"):
            write_json(facts, list(range(9999)))
    assert read_tensors(tensors)[1] == {"n": 1}
    assert read_json(facts) == [1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


def test_a_search_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    full, room = tmp_path / "full", tmp_path / "room"
    with small_disk(2048), pytest.raises(StorageError, match="cannot be written"):
        gradient(full)
    assert not [path for path in full.rglob("*") if path.is_file()]
    gradient(full)
    gradient(room)
    assert final(full) == final(room)


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root alone")
    try:
        write_tensors(tmp_path / "a", {"t": torch.ones(3)}, {})
        with pytest.raises(StorageError, match=rf"a: cannot be written .*{errno.ENOSPC}|No space"):
            write_tensors(tmp_path / "a", {"t": torch.ones(100_000)}, {})
        assert len(read_tensors(tmp_path / "a")[0]["t"]) == 3
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
