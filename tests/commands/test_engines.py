"""``split`` with worker processes: the same result, and nothing left behind by Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shop import Shop, call, succeed


def options(shop: Shop, out: Path) -> list[object]:
    search = ("--population", 6, "--search-images", 20, "--sensitivity", shop / "curves.json")
    return [
        "split",
        shop / "strong.safetensors",
        "--data",
        shop / "data.npz",
        *search,
        "--out",
        out,
    ]


def wait_for(happened: Callable[[], bool], seconds: float = 200) -> None:
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < seconds, "did not happen"
        time.sleep(0.1)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def searched(log: Path) -> int:
    # what follows the last line's end is being written
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    events = [json.loads(line) for line in lines]
    return sum(event["stage"] == "search" for event in events)


def test_after_ctrl_c_no_process_is_left_and_the_same_command_goes_on(
    shop: Shop, tmp_path: Path
) -> None:
    log = tmp_path / "out" / "events.jsonl"
    command = [*options(shop, tmp_path / "out"), "--generations", 5000, "--workers", 2]
    started = subprocess.Popen(
        [sys.executable, "-m", "cnnsplitter", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        # tests in the background of a shell ignore it, and what they start would, too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_for(lambda: searched(log) >= 2 or started.poll() is not None)
    os.killpg(started.pid, signal.SIGINT)
    _, told = started.communicate(timeout=200)
    assert started.returncode == 130, told
    *steps, last = told.splitlines()
    assert last == "stopped; run the same command again to go on"
    assert all(line.startswith(("importance: ", "search: ")) for line in steps)
    wait_for(lambda: is_gone(started.pid))

    done = searched(log)
    whole, stopped = tmp_path / "whole", tmp_path / "out"
    succeed(*options(shop, stopped), "--generations", done + 1)
    succeed(*options(shop, whole), "--generations", done + 1)
    for module in whole.glob("*.safetensors"):
        assert module.read_bytes() == (stopped / module.name).read_bytes()
    assert searched(log) == searched(whole / "events.jsonl") == done + 1


def test_ray_finds_the_same_class_modules(shop: Shop, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    here, there = tmp_path / "here", tmp_path / "there"
    succeed(*options(shop, here), "--generations", 1)
    spread = ("--generations", 1, "--engine", "ray", "--workers", 2)
    subprocess.run(
        [sys.executable, "-m", "cnnsplitter", *map(str, [*options(shop, there), *spread])],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=True,
        timeout=200,
    )
    modules = {path.name: path.read_bytes() for path in here.glob("*.safetensors")}
    assert len(modules) > 1
    assert modules == {path.name: path.read_bytes() for path in there.glob("*.safetensors")}


def test_tensorboard_gets_a_folder(shop: Shop, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    succeed(*options(shop, tmp_path / "out"), "--generations", 1, "--tensorboard")
    assert list((tmp_path / "out" / "tensorboard").glob("events.*"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--engine", "rey"), "unknown engine 'rey'; did you mean 'ray'?"),
        (("--ray-address", "auto"), "--ray-address auto needs --engine ray"),
    ],
)
def test_engines_that_make_no_sense_are_refused(
    shop: Shop, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    outcome = call(*options(shop, tmp_path / "out"), *flags)
    assert (outcome.code, outcome.err) == (2, f"error: {message}\n")
    assert not (tmp_path / "out").exists()
