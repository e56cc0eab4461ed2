"""A recipe with factories of a person's own: run, stopped, gone on with, reported."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnnsplitter.progress import Step
from cnnsplitter.terminal import Terminal
from shop import call, files_in, succeed, write_npz

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, classes=4):
        super().__init__()
        print("building", width)
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(x.mean((2, 3)))


def weak(depth=1):
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
"""
RECIPE = """
title = "Of one's own"
strong_data = { source = "mine" }
weak_data = { source = "mine[bird,cat]+mine[dog]" }
search = { ratios = [0.5], genetic = { population = 4, generations = 3, parents = 2, elites = 1 } }
patch = { targets = ["cat"] }

[strong]
model = "recipe_nets:Net"
arguments = { width = 3 }
training = { epochs = 3, batch_size = 16 }

[weak]
model = "recipe_nets:weak"
training = { epochs = 1 }
"""
SETTINGS = "place = ['mine=data.npz']\nsearch-images = 20\nout = 'run'\nquiet = true\n"
UNTRUSTED = ("run", "own.toml", "--settings", "run.toml", "--json")
RUN = (*UNTRUSTED, "--trust-code")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: the person's networks, recipe, settings and images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "recipe_nets.py").write_text(SOURCE)
    (tmp_path / "own.toml").write_text(RECIPE)
    (tmp_path / "run.toml").write_text(SETTINGS)
    write_npz(tmp_path / "data.npz")
    yield tmp_path
    sys.modules.pop("recipe_nets", None)


def test_a_recipe_with_factories_runs_stops_goes_on_and_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Terminal, step: Step, /) -> None:
        if (step.stage, step.done) == ("search", 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Terminal, "progress", stop)
        assert call(*RUN).code != 0
    trained = (folder / "run" / "strong.safetensors").read_bytes()
    outcome = succeed(*RUN)
    report = outcome.json
    assert "building 3" in outcome.err
    assert (folder / "run" / "strong.safetensors").read_bytes() == trained
    assert [row["target"] for row in report["patches"]] == ["cat"]
    assert report["recipe"]["strong"]["arguments"] == {"width": 3}
    assert report["layers"] == ["first", "second"]

    whole = succeed(*RUN, "--out", "whole").json
    for name in ("strong_accuracy", "composed_accuracy", "kept", "overlap", "patches"):
        assert report[name] == whole[name]
    succeed("report", "run", "whole", "--out", "both.html")
    assert "Of one" in (folder / "both.html").read_text()

    again = succeed(*RUN)
    assert "already finished" in again.err
    assert again.json == json.loads(json.dumps(report))
    own = ("--model", "recipe_nets:Net", "--model-arg", "width=3")
    module = succeed("inspect", "run/modules/cat.safetensors", *own, "--json").json
    assert module["module"]["architecture"]["name"] == "recipe_nets:Net"


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_recipe_alone_makes_no_code_run(folder: Path, more: tuple[str, ...]) -> None:
    (folder / "recipe_nets.py").write_text("open('ran', 'w')\n")
    (folder / "run.toml").write_text(SETTINGS.replace("quiet", "trust-code"))
    refused = call(*UNTRUSTED, *more)
    assert refused.code == 2
    assert "unknown key 'trust-code'" in refused.err
    (folder / "run.toml").write_text(SETTINGS)
    before = files_in(folder)
    refused = call(*UNTRUSTED, *more)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "own.toml: key 'strong.model' names code, 'recipe_nets:Net'" in refused.err
    assert "--trust-code" in refused.err
    (folder / "own.toml").write_text(
        RECIPE.replace("recipe_nets:Net", "lenet5").replace("arguments = { width = 3 }", "")
    )
    assert "key 'weak.model' names code" in call(*UNTRUSTED, *more).err
    (folder / "own.toml").write_text(RECIPE)
    assert files_in(folder) == before
    assert "recipe_nets" not in sys.modules


def test_the_width_of_a_run_is_not_that_of_a_factory(folder: Path) -> None:
    before = files_in(folder)
    outcome = call(*RUN, "--width", 0.5)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "'recipe_nets:Net' has no width" in outcome.err
    assert files_in(folder) == before


def test_a_factory_that_raises_is_told_before_any_work(folder: Path) -> None:
    broken = SOURCE.replace("    return nn.Seq", "    raise ValueError('too shallow')\n    nn.Seq")
    (folder / "recipe_nets.py").write_text(broken)
    outcome = call(*RUN)
    assert (outcome.code, outcome.out) == (2, "")
    assert "factory recipe_nets:weak raised ValueError: too shallow" in outcome.err
    assert f"{folder / 'recipe_nets.py'}:" in outcome.err
    assert not (folder / "run").exists()
