"""The commands and the Python of the pages on bringing a model are run as they stand."""

import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnsplitter.models import build_with_factory
from shop import succeed

DOCS = Path(__file__).parents[2] / "docs"
DATA, SHARED = os.environ.get("CNNSPLITTER_DATA"), os.environ.get("CNNSPLITTER_SHARED")


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = "".join(blocks(page, "console")).replace("\\\n", "").splitlines()
    return [shlex.split(line)[2:] for line in lines if line.startswith("$ cnnsplitter ")]


def write_modules(page: str) -> None:
    """Write the Python blocks that begin with the name of a file."""
    for block in blocks(page, "python"):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            Path(name[1]).write_text(block)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("my_"):
            del sys.modules[name]


def test_bringing_a_model() -> None:
    write_modules("your-model.md")
    weights = build_with_factory("my_nets:Net", {}).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, "weights.pth")
    for command in commands("your-model.md"):
        succeed(*command)
    (block,) = (b for b in blocks("your-model.md", "python") if not b.startswith("#"))
    names: dict[str, object] = {}
    exec(compile(block, "your-model.md", "exec"), names)
    assert names["strong"].input_shape == (1, 8, 8)  # type: ignore[attr-defined]


@pytest.mark.skipif(not DATA, reason="CNNSPLITTER_DATA does not name a folder with cifar10.npz")
@pytest.mark.skipif(not SHARED, reason="CNNSPLITTER_SHARED does not name the shared folder")
def test_adopting_published_weights_with_a_loader_of_ones_own(tmp_path: Path) -> None:
    """Both ways of the walk-through score alike, on 300 of its images."""
    write_modules("walk-through.md")
    with np.load(Path(str(DATA)) / "cifar10.npz", allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    some = np.random.default_rng(0).permutation(10_000)[:300]
    for part in ("train", "test"):
        arrays |= {f"{key}_{part}": arrays[f"{key}_{part}"][some] for key in "xy"}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    for name in ("resnet20-12fca82f.th", "resnet32-d509ac18.th"):
        (tmp_path / name).symlink_to(Path(str(SHARED)) / "models" / name)
    adopted = [c for c in commands("walk-through.md") if c[0] == "adopt"]
    assert len(adopted) == 3
    scores = [succeed(*command, "--json").json["test"]["accuracy"] for command in adopted]
    assert scores[0] == scores[1]
    assert all(0.87 <= score <= 0.97 for score in scores)
