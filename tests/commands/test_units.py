"""``--units all``: rows of hidden linear layers are selected, too, from the first command on."""

from pathlib import Path

import pytest
from torch import nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.storage.saving import describe, load_as
from cnnsplitter.subtasks.networks import Subtask
from shop import CLASSES, Outcome, Shop, call, split, succeed

ALL = ("--units", "all")
SMALL = ("--search", "importance", "--keep", 0.5)
RECIPE = """
title = "Linear layers, too"
strong_data = { source = "mine" }
weak_data = { source = "mine" }
patch = { targets = ["cat"] }

[search]
units = "all"
genetic = { population = 4, generations = 2, parents = 2, elites = 1 }
ratios = [0.5]

[strong]
model = "lenet5"
training = { epochs = 2, batch_size = 16 }

[weak]
model = "lenet5"
training = { epochs = 1 }
"""


def hidden(model: nn.Module) -> list[int]:
    """Return the numbers of rows of the hidden linear layers."""
    return [part.out_features for part in model.modules() if isinstance(part, nn.Linear)][:-1]


def is_narrower(model: nn.Module, strong: Classifier) -> bool:
    return all(a < b for a, b in zip(hidden(model), hidden(strong), strict=True))


@pytest.fixture(scope="module")
def modules(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units") / "modules"
    succeed(*split(shop, *SMALL, *ALL, "--compensate", "--out", folder))
    return folder


def test_linear_layers_are_cut(shop: Shop, modules: Path) -> None:
    strong = load_as(Classifier, shop / "strong.safetensors")
    for name in CLASSES:
        path = modules / f"{name}.safetensors"
        assert is_narrower(load_as(ClassModule, path), strong)
        assert describe(path)["details"]["search"]["units"] == "all"
    kernels_only = load_as(ClassModule, shop / "modules" / "cat.safetensors")
    assert hidden(kernels_only) == hidden(strong)


def test_what_was_cut_is_composed_and_patched(shop: Shop, modules: Path, tmp_path: Path) -> None:
    data = ("--data", shop / "data.npz", "--json")
    succeed("compose", modules, *data, "--out", tmp_path / "composed.safetensors")
    strong = ("--strong", shop / "strong.safetensors", "--baselines", "--force-patch")
    both = ("--with", modules / "cat.safetensors", "--with", shop / "modules" / "dog.safetensors")
    patch = ("patch", shop / "weak.safetensors", *both, *strong)
    rows = succeed(*patch, *data, "--out", tmp_path / "patched.safetensors").json["baselines"]
    assert {"random", "whole strong"} < {row["method"] for row in rows}


def test_doctor_and_a_dry_run_count_rows(shop: Shop) -> None:
    strong = load_as(Classifier, shop / "strong.safetensors")
    few = ("--population", 4, "--generations", 1, "--search-images", 20, "--json")
    doctor = ("doctor", shop / "strong.safetensors", *few)
    kernels, both = succeed(*doctor).json, succeed(*doctor, *ALL).json
    assert both["units"] - kernels["units"] == sum(hidden(strong))
    assert both["selectable"] > kernels["selectable"]
    assert all(check["agrees"] for check in both["checks"])
    options = (*SMALL, "--dry-run", "--json", "--out", shop / "planned")
    assert succeed(*split(shop, *options)).json["units"] == kernels["units"]
    assert succeed(*split(shop, *options, *ALL)).json["units"] == both["units"]


def test_a_subtask_is_cut_there_too(shop: Shop, tmp_path: Path) -> None:
    task = (*SMALL, *ALL, "--subtask", "cat,dog", "--no-compare", "--compensate")
    succeed(*split(shop, *task, "--out", tmp_path))
    found = load_as(Subtask, tmp_path / "subtask.safetensors")
    assert is_narrower(found, load_as(Classifier, shop / "strong.safetensors"))


def test_curves_are_of_the_same_units(shop: Shop, tmp_path: Path) -> None:
    few = ("--search-images", 20, "--data", shop / "data.npz")
    curves = tmp_path / "curves.json"
    succeed("sensitivity", shop / "strong.safetensors", *few, *ALL, "--out", curves)
    genetic = ("--population", 4, "--generations", 1, "--sensitivity", curves, *few)
    command = ("split", shop / "strong.safetensors", *genetic, "--out", tmp_path / "m")
    assert "another network" in call(*command).err
    succeed(*command, *ALL)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def stopped(monkeypatch: pytest.MonkeyPatch, place: str, *command: object) -> Outcome:
    """Call a command that is interrupted at one place."""
    with monkeypatch.context() as patch:
        patch.setattr(place, interrupted)
        return call(*command)


def test_a_search_goes_on_with_the_same_units_only(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = split(shop, "--search", "random", "--tries", 2, "--out", tmp_path)
    stopped(monkeypatch, "cnnsplitter.splitting.class_modules", *command, *ALL)
    assert (tmp_path / "search.checkpoint").exists()
    refused = call(*command)
    assert refused.code == 2
    assert "belongs to another search, with different importance, network" in refused.err
    searched = (tmp_path / "events.jsonl").read_text().count('"search"')
    succeed(*command, *ALL)
    assert (tmp_path / "events.jsonl").read_text().count('"search"') == searched


def test_a_recipe_says_its_units(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = tmp_path / "all.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    command = ("run", recipe, "--place", f"mine={shop / 'data.npz'}", "--out", run, "--json")
    planned = succeed(*command, "--dry-run").json
    stopped(monkeypatch, "cnnsplitter.splitting.class_modules", *command)
    assert (run / "search.safetensors").exists()
    recipe.write_text(RECIPE.replace('"all"', '"conv"'))
    assert "holds a run with other settings" in call(*command).err
    recipe.write_text(RECIPE)
    report = succeed(*command).json
    assert report["recipe"]["search"]["units"] == "all"
    assert report["layers"] == [row["layer"] for row in planned["layers"]]
    strong = load_as(Classifier, run / "strong.safetensors")
    module = load_as(ClassModule, run / "modules" / "cat.safetensors")
    assert sum(hidden(module)) < sum(hidden(strong))
    made = describe(run / "modules" / "cat.safetensors")["details"]["search"]
    assert made["units"] == "all"


@pytest.mark.parametrize(
    "command", [("split", "--out", "m"), ("doctor",), ("sensitivity", "--out", "c.json")]
)
def test_other_values_are_refused(
    command: tuple[str, ...], shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name, *options = command
    data = ("--data", shop / "data.npz", "--units", "al")
    outcome = call(name, shop / "strong.safetensors", *options, *data)
    assert outcome.code == 2
    assert "unknown units 'al'; did you mean 'all'" in outcome.err
