"""``demo`` and ``run`` at toy size."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cnnsplitter import recipes
from cnnsplitter.commands.tables import show_changes
from cnnsplitter.terminal import Terminal
from shop import Outcome, call, files_in, succeed, write_npz

RECIPE = """
title = "Toy"
strong_data = { source = "mine" }
weak_data = { source = "mine[bird,cat]+mine[dog]" }
strong = { model = "lenet5", training = { epochs = 3, batch_size = 16 } }
weak = { model = "lenet5", training = { epochs = 1 } }
search = { ratios = [0.5], genetic = { population = 6, generations = 2, parents = 3, elites = 1 } }
patch = { targets = ["cat"] }
"""
SMALL = ("--population", 4, "--generations", 1, "--search-images", 20)


@pytest.fixture
def undrawn() -> None:
    """Whole reports, here."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """The arguments that run the toy recipe."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "toy.toml").write_text(RECIPE)
    data = write_npz(folder / "data.npz")
    return ("run", folder / "toy.toml", "--place", f"mine={data}")


@pytest.fixture(scope="module")
def finished(
    toy: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Outcome]:
    """The folder of a finished run, and what the command gave."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, succeed(*toy, *SMALL, "--out", folder, "--json")


def test_json_is_the_report_and_every_file(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    report = json.loads((folder / "report.json").read_text())
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    assert outcome.json == {**report, "files": files}
    assert str(folder / "patched-cat.safetensors") in files


def test_again_shows_the_same_and_changes_nothing(
    toy: tuple[object, ...], finished: tuple[Path, Outcome]
) -> None:
    folder, outcome = finished
    trained = (folder / "strong.safetensors").read_bytes()
    again = succeed(*toy, *SMALL, "--out", folder)
    assert (folder / "strong.safetensors").read_bytes() == trained
    report = outcome.json
    assert "Toy" in again.out.splitlines()
    assert f"Strong model: accuracy {report['strong_accuracy']:.3f}" in again.out
    assert f"Composed of its class modules: {report['composed_accuracy']:.3f}" in again.out
    assert f"cat ({report['patches'][0]['n_target']} of " in again.out
    assert f"  {folder / 'report.json'}" in again.out.splitlines()
    assert again.err == f"{folder}: already finished; --force runs it again\n"
    assert "already finished" not in outcome.err
    (line,) = (line for line in again.out.splitlines() if " multiply-adds " in line)
    before, after = (report["patches"][0][f"macs_{name}"] for name in ("weak", "patched"))
    assert line.split() == [
        *("multiply-adds", f"{before:,}", f"{after:,}", "x", f"{after / before:.1f}")
    ]


def test_other_settings_do_not_mix(toy: tuple[object, ...], finished: tuple[Path, Outcome]) -> None:
    folder, _ = finished
    before = files_in(folder)
    outcome = call(*toy, *SMALL, "--seed", 7, "--out", folder)
    assert outcome.code == 2
    assert str(folder) in outcome.err
    assert "--force" in outcome.err
    assert files_in(folder) == before


def test_folder_and_settings_from_a_file(
    toy: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("target = ['bird', 'dog']\nepochs = 1\nquiet = true\n")
    outcome = succeed(*toy, *SMALL, "--settings", "run.toml", "--json")
    assert outcome.err == ""
    assert [row["target"] for row in outcome.json["patches"]] == ["bird", "dog"]
    recipe = json.loads((tmp_path / "runs" / "toy" / "recipe.json").read_text())
    assert recipe["strong"]["training"]["epochs"] == recipe["weak"]["training"]["epochs"] == 1
    assert recipe["search"]["genetic"]["population"] == 4


def test_demo_runs_the_recipe_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_npz(tmp_path / "data.npz")
    (tmp_path / "demo.toml").write_text(RECIPE.replace("mine", str(data)))
    small = recipes.load_recipe(str(tmp_path / "demo.toml"))
    monkeypatch.setattr(recipes, "load_recipe", {"demo": small}.__getitem__)
    outcome = succeed("demo", "--out", tmp_path / "demo", "--json")
    assert [row["target"] for row in outcome.json["patches"]] == ["cat"]
    assert (tmp_path / "demo" / "patched-cat.safetensors").exists()


def test_runs_are_compared_in_one_page(finished: tuple[Path, Outcome], tmp_path: Path) -> None:
    folder, _ = finished
    assert (folder / "report.html").is_file()
    page = tmp_path / "both.html"
    succeed("report", folder, "--out", page)
    assert "<title>CNNSplitter: Toy</title>" in page.read_text()
    assert "exists already" in call("report", folder, "--out", page).err
    picture = tmp_path / "patch.svg"
    succeed("report", folder, "--out", page, "--force", "--picture", picture)
    svg = ET.fromstring(picture.read_text())
    assert (svg.get("aria-label") or "").startswith("Patch of cat, on 20 and ")
    assert "exists already" in call("report", folder, "--out", "new", "--picture", picture).err


def test_runs_are_listed(finished: tuple[Path, Outcome]) -> None:
    folder, outcome = finished
    (row,) = succeed("runs", folder.parent, "--json").json["runs"]
    assert row["folder"] == str(folder)
    assert row["figures"]["strong_accuracy"] == outcome.json["strong_accuracy"]
    title, head, line = succeed("runs", folder.parent).out.strip().splitlines()
    assert title == f"Runs in {folder.parent}"
    assert head.split()[:4] == ["folder", "what", "seed", "state"]
    assert line.split()[:4] == [str(folder), "Toy", "0", "finished"]
    assert "cat 0." in line
    assert "no such folder" in call("runs", folder / "none").err


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    outcome = call("report", tmp_path, "--out", tmp_path / "page.html")
    assert outcome.code == 2
    assert "holds no finished run; go on with it" in outcome.err
    assert files_in(tmp_path) == {}


def test_the_multiply_adds_of_a_gated_patch_have_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = ("precision", "recall", "f1", "other")
    row: dict[str, Any] = {
        f"{name}_{stage}": 0.5 for name in figures for stage in ("before", "after")
    }
    row |= {"target": "cat", "n_target": 1, "n_other": 3, "macs_weak": 10, "macs_patched": 30}
    show_changes([row], Terminal())
    assert "gated" not in capsys.readouterr().out
    show_changes([row | {"macs_gated": 15, "run_share": 0.25}], Terminal())
    *_, ungated, gated = (line.split() for line in capsys.readouterr().out.splitlines())
    assert ungated == ["multiply-adds", "10", "30", "x", "3.0"]
    assert gated == ["multiply-adds,", "gated:", "run", "on", "25%", "10", "15", "x", "1.5"]
