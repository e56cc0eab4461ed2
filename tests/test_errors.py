"""Checks that many functions share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import toys
from cnnsplitter.data import Splits, make_splits
from cnnsplitter.errors import SEEDS, SettingsError, require_seed
from cnnsplitter.models import build_model
from cnnsplitter.recipes import load_recipe
from cnnsplitter.splitting import split
from cnnsplitter.training import Training, train
from shop import call, write_npz

DATA = toys.image_set(24)
SEEDED: dict[str, Callable[[int], Any]] = {
    "itself": require_seed,
    "make_splits": lambda seed: make_splits(DATA, seed=seed),
    "build_model": lambda seed: build_model("lenet5", 3, (3, 16, 16), seed=seed),
    "train": lambda seed: train(toys.classifier(), DATA, None, Training(epochs=1), seed=seed),
    "split": lambda seed: split(toys.classifier(), Splits(DATA, DATA, DATA, DATA), seed=seed),
    "recipe": lambda seed: load_recipe("demo").adapted(seed=seed),
}


@pytest.mark.parametrize("seed", [-1, SEEDS, 2**64, 2**70, pytest.param(16**100_000, id="huge")])
@pytest.mark.parametrize("name", SEEDED)
def test_seeds_out_of_range_are_refused(name: str, seed: int) -> None:
    with pytest.raises(SettingsError, match="seed"):
        SEEDED[name](seed)


@pytest.mark.parametrize("name", ["itself", "make_splits", "build_model", "train", "recipe"])
def test_the_largest_seed_is_taken(name: str) -> None:
    SEEDED[name](SEEDS - 1)


@pytest.mark.parametrize("command", [("train", "lenet5"), ("run", "demo")])
def test_commands_refuse_them(tmp_path: Path, command: tuple[str, ...]) -> None:
    data = ("--data", write_npz(tmp_path / "d.npz", each=6)) if command[0] == "train" else ()
    done = call(*command, *data, "--seed", 2**64, "--out", tmp_path / "a.safetensors")
    assert done.code == 2
    assert "--seed" in done.err
