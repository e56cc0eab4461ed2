"""Killed at any moment and run again: the same files to the last byte, and never half a one."""

import errno
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnnsplitter.errors import StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.folder_lock import LOCK, held
from cnnsplitter.results import read_json, write_json
from shop import call, succeed, write_npz
from toy_runs import DIGITS, contents, images_of, untimed
from trust.crashing import WORK, claim, gradient, hold, make, work

SERVER = multiprocessing.get_context("forkserver")
"""So that what is killed need not import everything first, and computes gradients nevertheless."""
SERVER.set_forkserver_preload(["trust.crashing"])
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="times differ between devices")
NAMES = ("run", "gradient", "commands", "report")
"""A whole run with the genetic search, a split with the gradient search, one after the other the
commands for training, that split with all that follows it, and a patch; pages of finished runs."""
PASSING = re.compile(r"\..*|.*\.checkpoint|events\.jsonl")
"""What commands leave that were killed with all their results written, and what tells of times."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    path = tmp_path_factory.mktemp("data") / "svhn.npz"
    (x, y), (more, theirs) = images_of(10, 20, 0), images_of(10, 4, 1)
    np.savez(path, x_train=x, y_train=y, x_test=more, y_test=theirs, classes=np.array(DIGITS))
    return {"svhn": str(path)}


def killed(
    name: str,
    folder: Path,
    place: dict[str, str],
    *,
    seconds: float = 600,
    number: int = -1,
    before: bool = False,
) -> bool:
    """Do the work in another process and kill it; return whether it was still in it."""
    process = SERVER.Process(target=work, args=(name, folder, place, number, before))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def assert_whole(folder: Path) -> None:
    """What can be seen is whole, whenever the writer was killed."""
    for path in folder.rglob("*"):
        if path.suffix in (".safetensors", ".checkpoint") and path.name[0] != ".":
            read_tensors(path)
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".html":
            HTMLParser().feed(path.read_text())
            assert path.read_text().rstrip().endswith("</html>")
        if path.suffix == ".svg":
            ElementTree.fromstring(path.read_text())
        if path.suffix == ".md":
            assert path.read_text().endswith("`\n")


def assert_final(folder: Path, whole: Path) -> None:
    """Pages, pictures and cards that can be seen are what they will be."""
    for suffix in (".html", ".svg", ".md"):
        for path in folder.rglob(f"*{suffix}"):
            # That of a run tells times.
            if path.name != "report.html":
                assert path.read_bytes() == (whole / path.relative_to(folder)).read_bytes()


def final(folder: Path) -> tuple[Any, ...]:
    report = untimed(folder) if (folder / "report.json").exists() else None
    files = contents(folder)
    if (folder / "split.toml").exists():
        files = {name: files[name] for name in files if not PASSING.fullmatch(Path(name).name)}
    return files, report


def check_kills(name: str, folder: Path, place: dict[str, str], kills: int, seed: int) -> int:
    """Kill one run over and over again; return how often it was in its work."""
    begun = time.monotonic()
    WORK[name](folder / "whole", place)
    seconds, chance, hits = time.monotonic() - begun, random.Random(seed), 0
    for _ in range(kills):
        moment = seconds * chance.random()
        hits += killed(name, folder / "killed", place, seconds=moment)
        assert_whole(folder / "killed")
        assert_final(folder / "killed", folder / "whole")
    WORK[name](folder / "killed", place)
    assert final(folder / "killed") == final(folder / "whole")
    return hits


@pytest.mark.parametrize("name", NAMES)
def test_killed_twice_at_random_moments(name: str, place: dict[str, str], tmp_path: Path) -> None:
    check_kills(name, tmp_path, place, 2, 0)


@pytest.mark.parametrize(
    ("name", "number", "before"),
    [
        ("gradient", 0, True),
        ("gradient", 1, False),
        ("gradient", 3, True),
        ("report", 1, True),
    ],
)
def test_killed_while_a_file_takes_its_place(
    name: str, number: int, before: bool, place: dict[str, str], tmp_path: Path
) -> None:
    assert killed(name, tmp_path / "killed", place, number=number, before=before)
    assert_whole(tmp_path / "killed")
    WORK[name](tmp_path / "killed", place)
    WORK[name](tmp_path / "whole", place)
    assert final(tmp_path / "killed") == final(tmp_path / "whole")


@pytest.mark.large
@pytest.mark.parametrize("name", NAMES)
def test_killed_at_a_hundred_random_moments(
    name: str, place: dict[str, str], tmp_path: Path
) -> None:
    """Ten kills each of five runs, for each search."""
    hits = sum(check_kills(name, tmp_path / str(n), place, 10, n) for n in range(5))
    assert hits >= 25


def test_what_a_killed_run_left_keeps_no_other_from_its_folder(
    place: dict[str, str], tmp_path: Path
) -> None:
    """Killed before its first file was there: only half of that lies about."""
    assert killed("claim", tmp_path, place, number=0, before=True)
    assert [path.name.split(".")[-1] for path in tmp_path.iterdir()] == ["tmp"]
    claim(tmp_path, place)
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


class TestOneAtATime:
    """Two runs in one folder."""

    def test_the_second_is_refused_with_the_process_of_the_first(self, tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        first = SERVER.Process(target=hold, args=(tmp_path / "run", ready))
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
        first.kill()
        first.join()
        assert (tmp_path / "run" / LOCK).exists(), "stale"
        with held(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).read_text() == str(os.getpid())
        assert not (tmp_path / "run" / LOCK).exists()

    def test_one_training_for_a_file(self, tmp_path: Path) -> None:
        """Others in the same folder may go on."""
        data, out = write_npz(tmp_path / "data.npz", each=6), tmp_path / "new" / "a.safetensors"
        ready = tmp_path / "ready"
        first = SERVER.Process(target=make, args=(out, ready))
        first.start()
        while not ready.exists():
            time.sleep(0.01)
        shape = ("--data", data, "--epochs", 1, "--quiet")
        refused = call("train", "lenet5", *shape, "--out", out)
        assert refused.code == 2
        assert f"a.safetensors: process {first.pid} makes it" in refused.err
        succeed("train", "lenet5", *shape, "--out", out.with_name("b.safetensors"))
        first.kill()
        first.join()
        succeed("train", "lenet5", *shape, "--out", out)
        made = sorted(path.name for path in out.parent.iterdir())
        assert made == ["a.safetensors", "b.safetensors"]

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
        gradient(full, {})
    assert not [path for path in full.rglob("*") if path.is_file()]
    gradient(full, {})
    gradient(room, {})
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
