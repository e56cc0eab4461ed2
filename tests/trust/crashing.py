"""Work that is killed; in a module of its own, so that other processes can import it."""

import os
import signal
import time
from contextlib import chdir
from pathlib import Path
from typing import Any

import toys
from cnnsplitter.folder_lock import held, held_file
from cnnsplitter.hub.folder import CARD, save_folder
from cnnsplitter.inference import one_thread
from cnnsplitter.pipeline import Run, save_modules
from cnnsplitter.results import write_json
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import split
from pages import evidence, facts
from shop import succeed, write_npz
from toy_runs import finish, small


def whole(folder: Path, place: dict[str, str]) -> None:
    """Train, split, patch and report as ``cnnsplitter run`` does."""
    # How sums are shared out among threads changes their last bits.
    with held(folder), one_thread():
        finish(Run(small(), folder, place))


def gradient(folder: Path, place: dict[str, str]) -> None:
    """Split with the gradient search."""
    search = GradientSearch(keep=0.5, rounds=3, steps=3, anneal=2)
    data, strong = toys.splits(24), toys.classifier()
    with one_thread():
        found = split(strong, data, search=search, seed=0, checkpoint=folder / "search.checkpoint")
    save_modules(found, folder / "modules", {"seed": 0})


SETTINGS = """search = "gradient"
keep = 0.5
compensate = true
finetune-epochs = 1
[gradient]
rounds = 3
steps = 3
anneal = 2
"""
DATA = ("--data", "data.npz", "--quiet")
PATCH = ("patch", "weak.safetensors", "--with", "modules/cat.safetensors", *DATA)
COMMANDS = {
    "weak.safetensors": ("train", "lenet5", *DATA, "--epochs", 3, "--width", 0.5),
    "strong.safetensors": ("train", "lenet5", *DATA, "--epochs", 6),
    "modules": ("split", "strong.safetensors", *DATA, "--settings", "split.toml"),
    "patched.safetensors": (*PATCH, "--force-patch", "--gate", 0.5),
}
"""What is written to what it is written by."""


def commands(folder: Path, place: dict[str, str]) -> None:
    """Train, split with the gradient search, compensate, fine-tune, and patch by commands."""
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder), one_thread():
        write_npz(Path("data.npz"), each=12)
        Path("split.toml").write_text(SETTINGS)
        for out, command in COMMANDS.items():
            if not (Path(out) / "split.json" if out == "modules" else Path(out)).exists():
                succeed(*command, "--out", out)


def _facts(title: str) -> dict[str, Any]:
    """Facts of a run that are soon drawn."""
    two: dict[str, Any] = {"classes": ["cat", "dog"]}
    counts = {"confusion_before": [[3, 1], [2, 2]], "confusion_after": [[3, 1], [1, 3]]}
    known = evidence("cat").model_copy(update=two | counts | {"won": []})
    kept = {"layers": ["a"], "kept": [[0.5], [1.0]], "overlap": [[1.0, 0.5], [0.5, 1.0]]}
    few = two | kept | {"evidence": [known], "sensitivity": None}
    return facts("cat", title).model_copy(update=few).model_dump(mode="json")


def report(folder: Path, place: dict[str, str]) -> None:
    """Write the page and the picture of a finished run, and a folder for a hub."""
    folder.mkdir(parents=True, exist_ok=True)
    with chdir(folder), one_thread():
        if not Path("one", "report.json").exists():
            write_json(Path("one", "report.json"), _facts("One"))
        if not Path("one.svg").exists():  # it is written last
            files = ("--out", "one.html", "--picture", "one.svg")
            succeed("report", "one", *files, "--force")
        if not Path("hub", CARD).exists():
            save_folder(toys.class_module(toys.classifier()), Path("hub"), overwrite=True)


def claim(folder: Path, place: dict[str, str]) -> None:
    """Begin a run."""
    Run(small(), folder, place).prepare()


WORK = {"run": whole, "commands": commands, "gradient": gradient, "report": report, "claim": claim}


def work(name: str, folder: Path, place: dict[str, str], number: int, before: bool) -> None:
    """Do the work; die right before or after file ``number`` takes its place, or never if -1."""
    replace, left = os.replace, [number]

    def last(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] == -1 and before:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if left[0] == -1:
            os.kill(os.getpid(), signal.SIGKILL)

    if number >= 0:
        setattr(os, "replace", last)  # noqa: B010
    WORK[name](folder, place)


def hold(folder: Path, ready: Path) -> None:
    """Hold the lock of a folder for long."""
    with held(folder):
        ready.touch()
        time.sleep(300)


def make(path: Path, ready: Path) -> None:
    """Be the one that makes a file for long."""
    with held_file(path):
        ready.touch()
        time.sleep(300)
