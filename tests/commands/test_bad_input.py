"""Every mistake is told in one line that names the thing, at once, and leaves nothing behind."""

import json
import re
import struct
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from shop import CLASSES, Shop, call, files_in, write_npz

OUT = "new/out.safetensors"
TRAIN = ("train", "lenet5", "--data", "data.npz", "--epochs", 1, "--out", OUT)
CAT = "modules/cat.safetensors"


class Evil:
    """Unpickling it runs code that makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("executed", "w")


@pytest.fixture(scope="module")
def counter(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the shop with broken files beside the good ones."""
    folder = tmp_path_factory.mktemp("counter")
    for name, content in files_in(shop.folder).items():
        if (shop / name).is_dir():
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    strong = folder / "strong.safetensors"
    (folder / "cut.safetensors").write_bytes(strong.read_bytes()[:-1000])
    (folder / "text.safetensors").write_text("not a model")
    spoil(strong, folder / "nan.safetensors", weight=float("nan"))
    spoil(strong, folder / "future.safetensors", format=99)
    spoil(strong, folder / "odd.safetensors", kind="teapot")
    save_file({"weight": torch.ones(2)}, folder / "foreign.safetensors")
    torch.save({"weight": torch.ones(2), "evil": Evil()}, folder / "evil.pt")
    torch.save({"weight": torch.ones(2)}, folder / "other.pt")
    write_npz(folder / "one.npz", ("cat",))
    write_npz(folder / "large.npz", size=32)
    write_npz(folder / "other-classes.npz", ("bird", "cat", "dog", "frog"))
    write_npz(folder / "scarce.npz", few=2)
    write_untested(folder)
    write_settings(folder)
    (folder / "empty").mkdir()
    return folder


def spoil(source: Path, to: Path, *, weight: float | None = None, **manifest: Any) -> None:
    """Copy a model's file with one weight or parts of its manifest changed."""
    with safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["cnnsplitter"])
    if weight is not None:
        next(iter(tensors.values())).view(-1)[0] = weight
    save_file(tensors, to, metadata={"cnnsplitter": json.dumps(header | manifest)})


def write_untested(folder: Path) -> None:
    """Write data without test images of the last two classes."""
    with np.load(folder / "data.npz") as data:
        tested = data["y_test"] < 2
        parts = {name: data[name][tested] for name in ("x_test", "y_test")}
        np.savez(folder / "untested.npz", **{**data, **parts})


def write_settings(folder: Path) -> None:
    recipe = (resources.files("cnnsplitter.recipes") / "demo.toml").read_text()
    for name, text in {
        "unknown": "epoch = 3",
        "typed": "epochs = 2.5",
        "flag": "force = 1",
        "list": f"with = '{CAT}'",
        "text": "data = true",
        "itself": "settings = 'typed.toml'",
        "broken": "epochs =",
        "training": "[training]\nweight_decy = 0.1",
        "training-type": "[training]\nepochs = 'ten'",
        "no-table": "training = 3",
        "genetic": "[genetic]\nmutatoin = 0.1",
        "genetic-range": "[genetic]\nalpha = 2",
        "recipe": recipe + "\n[strong_data.more]\n",
    }.items():
        (folder / f"{name}.toml").write_text(text)
    curves = {"ratios": [0.5, 1.0], "accuracy": {"conv_77": [0.5, 0.9]}}
    (folder / "other-curves.json").write_text(json.dumps(curves))
    (folder / "no-curves.json").write_text('{"ratios": []}')


@dataclass(frozen=True)
class Mistake:
    """What is called and what its error must name."""

    call: tuple[object, ...]
    names: tuple[str, ...]


def on_strong(command: str, *arguments: object, data: str = "data.npz", out: str = OUT) -> Any:
    return (command, "strong.safetensors", "--data", data, "--out", out, *arguments)


def patch(*arguments: object, weak: str = "weak.safetensors", data: str = "data.npz") -> Any:
    return ("patch", weak, "--data", data, "--out", OUT, *arguments)


MISTAKES = {
    # classes and data
    "class": Mistake((*TRAIN, "--data", "data.npz[cat,brid]"), ("'brid'", "did you mean 'bird'")),
    "one class": Mistake((*TRAIN, "--data", "one.npz"), ("one.npz", "cat", "two classes")),
    "selected class": Mistake(
        (*TRAIN, "--data", "data.npz[cat]"), ("data.npz[cat]", "two classes")
    ),
    "data set": Mistake((*TRAIN, "--data", "digit"), ("'digit'", "did you mean 'digits'")),
    "data file": Mistake((*TRAIN, "--data", "a/b.npz"), ("a/b.npz", "no such file")),
    "data text": Mistake((*TRAIN, "--data", "data.npz[cat"), ("data.npz[cat",)),
    "size": Mistake((*TRAIN, "--size", 16), ("data.npz", "(1, 8, 8)")),
    "fewer classes": Mistake(
        on_strong("split", data="data.npz[bird,cat]"), ("bird, cat", "dog, ship")
    ),
    "class counts": Mistake(
        on_strong("sensitivity", data="data.npz[bird,cat]"), ("bird, cat", "dog, ship")
    ),
    "class names": Mistake(
        ("evaluate", "strong.safetensors", "--data", "other-classes.npz"), ("frog", "ship")
    ),
    "patched classes": Mistake(patch("--with", CAT, data="other-classes.npz"), ("frog", "ship")),
    "composed class": Mistake(
        ("compose", CAT, "modules/ship.safetensors", "--data", "other-classes.npz", "--out", OUT),
        ("'ship'",),
    ),
    "input of split": Mistake(on_strong("split", data="large.npz"), ("(1, 8, 8)", "(1, 32, 32)")),
    "input of sensitivity": Mistake(
        on_strong("sensitivity", data="large.npz"), ("(1, 8, 8)", "(1, 32, 32)")
    ),
    "input of evaluate": Mistake(
        ("evaluate", "strong.safetensors", "--data", "large.npz"),
        ("large.npz", "strong.safetensors", "(1, 8, 8)"),
    ),
    "input of patch": Mistake(patch("--with", CAT, data="large.npz"), ("(1, 8, 8)", "(1, 32, 32)")),
    "no calibration image": Mistake(
        patch("--with", "modules/bird.safetensors", data="scarce.npz"), ("'bird'", "scarce.npz")
    ),
    "no calibration image to compose": Mistake(
        ("compose", "modules", "--data", "scarce.npz", "--calibration", "z-score", "--out", OUT),
        ("'bird'", "scarce.npz"),
    ),
    # names
    "model": Mistake(("train", "lenet", *TRAIN[2:]), ("'lenet'", "did you mean 'lenet5'")),
    "kind": Mistake((*TRAIN, "--kind", "weakk"), ("'weakk'", "did you mean 'weak'")),
    "recipe": Mistake(("run", "simcnn-cifar1"), ("'simcnn-cifar1'", "'simcnn-cifar10'")),
    "recipe file": Mistake(("run", "none.toml"), ("none.toml", "no such")),
    "recipe key": Mistake(("run", "recipe.toml"), ("recipe.toml", "'strong_data.more'")),
    "target": Mistake(("run", "demo", "--target", "88"), ("'88'", "did you mean '8'")),
    "preset": Mistake(
        on_strong("split", "--preset", "simcnn"), ("'simcnn'", "did you mean 'simcnn-svhn'")
    ),
    "calibration": Mistake(
        patch("--with", CAT, "--calibration", "minmax"), ("'minmax'", "did you mean 'min-max'")
    ),
    "rule": Mistake(patch("--with", CAT, "--rule", "replaced"), ("'replaced'", "'replace'")),
    "calibration to compose": Mistake(
        ("compose", "modules", "--data", "data.npz", "--calibration", "zscore", "--out", OUT),
        ("'zscore'", "did you mean 'z-score'"),
    ),
    "patched class": Mistake(patch("--with", f"brid={CAT}"), ("'brid'", "did you mean 'bird'")),
    "patched twice": Mistake(patch("--with", CAT, "--with", CAT), ("'cat'", "twice")),
    "composed twice": Mistake(("compose", CAT, CAT, "--out", OUT), ("'cat'", "2 class modules")),
    # settings and flags
    "settings key": Mistake((*TRAIN, "--settings", "unknown.toml"), ("unknown.toml", "'epochs'")),
    "settings type": Mistake(
        (*TRAIN[:4], *TRAIN[6:], "--settings", "typed.toml"), ("--epochs", "valid integer")
    ),
    "settings flag": Mistake((*TRAIN, "--settings", "flag.toml"), ("flag.toml", "'force'", "true")),
    "settings list": Mistake(patch("--settings", "list.toml"), ("list.toml", "'with'", "list")),
    "settings text": Mistake((*TRAIN, "--settings", "text.toml"), ("text.toml", "'data'")),
    "settings of settings": Mistake((*TRAIN, "--settings", "itself.toml"), ("'settings'",)),
    "settings table": Mistake(
        (*TRAIN, "--settings", "training.toml"),
        ("training.toml: training: ", "'weight_decy'", "did you mean 'weight_decay'"),
    ),
    "settings in a table": Mistake(
        (*TRAIN, "--settings", "training-type.toml"), ("training-type.toml", "epochs", "integer")
    ),
    "settings not a table": Mistake(
        (*TRAIN, "--settings", "no-table.toml"), ("no-table.toml", "'training'", "table")
    ),
    "settings of another command": Mistake(
        (*TRAIN, "--settings", "genetic.toml"), ("genetic.toml", "'genetic'")
    ),
    "settings of the search": Mistake(
        on_strong("split", "--settings", "genetic.toml"),
        ("genetic.toml: genetic: ", "'mutatoin'", "did you mean 'mutation'"),
    ),
    "range in the search": Mistake(
        on_strong("split", "--settings", "genetic-range.toml"), ("genetic-range.toml", "alpha")
    ),
    "no test images": Mistake(
        (*TRAIN, "--data", "untested.npz[dog,ship]"), ("untested.npz", "no test images")
    ),
    "settings file": Mistake((*TRAIN, "--settings", "none.toml"), ("none.toml",)),
    "settings TOML": Mistake((*TRAIN, "--settings", "broken.toml"), ("broken.toml", "TOML")),
    "option": Mistake((*TRAIN, "--epoch", 1), ("--epoch", "--epochs", "train --help")),
    "command": Mistake(("trian",), ("'trian'", "train")),
    "missing option": Mistake(TRAIN[:4], ("--out",)),
    "epochs": Mistake((*TRAIN, "--epochs", 0), ("--epochs", "1")),
    "epochs as text": Mistake((*TRAIN, "--epochs", "ten"), ("--epochs", "valid integer")),
    "learning rate": Mistake((*TRAIN, "--learning-rate", "nan"), ("learning_rate",)),
    "width": Mistake((*TRAIN, "--width", 0), ("width",)),
    "mean": Mistake((*TRAIN, "--mean", "a,b"), ("--mean", "'a,b'")),
    "means": Mistake((*TRAIN, "--mean", "0.1,0.2"), ("2 channels",)),
    "std": Mistake((*TRAIN, "--std", 0), ("positive std",)),
    "generations": Mistake(on_strong("split", "--generations", 0), ("generations", "1")),
    "population": Mistake(on_strong("split", "--population", 1), ("population", "2")),
    "generations of a run": Mistake(("run", "demo", "--generations", 0), ("generations", "1")),
    "population of a run": Mistake(("run", "demo", "--population", 1), ("population", "2")),
    "search images": Mistake(on_strong("split", "--search-images", 1), ("--search-images", "2")),
    "place": Mistake(("run", "demo", "--place", "digits"), ("--place", "'digits'", "NAME=PATH")),
    "place of nothing": Mistake(
        ("run", "demo", "--place", "digit=data.npz"), ("'digit'", "did you mean 'digits'")
    ),
    "place without data": Mistake(("run", "demo", "--place", "digits=none.npz"), ("none.npz",)),
    "calibration without data": Mistake(
        ("compose", CAT, "--calibration", "min-max", "--out", OUT), ("--calibration", "--data")
    ),
    # files
    "no file": Mistake(("inspect", "none.safetensors"), ("none.safetensors", "no such file")),
    "NaN": Mistake(
        ("split", "nan.safetensors", *on_strong("split")[2:]),
        ("nan.safetensors", "conv"),
    ),
    "cut": Mistake(("inspect", "cut.safetensors"), ("cut.safetensors", "truncated")),
    "text": Mistake(("inspect", "text.safetensors"), ("text.safetensors",)),
    "version": Mistake(("inspect", "future.safetensors"), ("future.safetensors", "99", "1")),
    "foreign": Mistake(("inspect", "foreign.safetensors"), ("foreign.safetensors", "cnnsplitter")),
    "kind of file": Mistake(("inspect", "odd.safetensors"), ("odd.safetensors", "teapot")),
    "folder for a file": Mistake(("inspect", "empty"), ("empty",)),
    "pickle": Mistake(
        ("adopt", "lenet5", "evil.pt", "--data", "data.npz", "--out", OUT), ("evil.pt", "refused")
    ),
    "other weights": Mistake(
        ("adopt", "lenet5", "other.pt", "--data", "data.npz", "--out", OUT), ("other.pt", "LeNet5")
    ),
    "no weights": Mistake(
        ("adopt", "lenet5", "none.pt", "--data", "data.npz", "--out", OUT), ("none.pt",)
    ),
    "class module to evaluate": Mistake(("evaluate", CAT, "--data", "data.npz"), (CAT, "compose")),
    "class module before": Mistake(
        ("evaluate", "strong.safetensors", "--before", CAT, "--data", "data.npz"), (CAT,)
    ),
    "class module to split": Mistake(("split", CAT, *on_strong("split")[2:]), (CAT, "ClassModule")),
    "classifier to compose": Mistake(
        ("compose", "strong.safetensors", "--out", OUT), ("strong.safetensors", "ClassModule")
    ),
    "classifier as patch": Mistake(
        patch("--with", "strong.safetensors"), ("strong.safetensors", "ClassModule")
    ),
    "nothing to compose": Mistake(("compose", "empty", "--out", OUT), ("empty", "class module")),
    "no curves": Mistake(
        on_strong("split", "--sensitivity", "no-curves.json"), ("no-curves.json",)
    ),
    "curves that are no JSON": Mistake(
        on_strong("split", "--sensitivity", "text.safetensors"), ("text.safetensors", "JSON")
    ),
    "curves of another network": Mistake(
        on_strong("split", "--sensitivity", "other-curves.json"), ("other-curves.json", "layer")
    ),
    # what is in the way
    "train over": Mistake(
        (*TRAIN, "--out", "strong.safetensors"), ("strong.safetensors", "--force")
    ),
    "adopt over": Mistake(
        ("adopt", "lenet5", "other.pt", "--data", "data.npz", "--out", "curves.json"),
        ("curves.json", "--force"),
    ),
    "sensitivity over": Mistake(
        on_strong("sensitivity", out="curves.json"), ("curves.json", "--force")
    ),
    "split over": Mistake(on_strong("split", out="modules"), ("modules/split.json", "--force")),
    "compose over": Mistake(
        ("compose", "modules", "--out", "composed.safetensors"), ("composed.safetensors", "--force")
    ),
    "patch over": Mistake(
        (*patch("--with", CAT), "--out", "patched.safetensors"), ("patched.safetensors", "--force")
    ),
    "file that is a folder": Mistake((*TRAIN, "--force", "--out", "empty"), ("empty", "folder")),
    "folder that is a file": Mistake(on_strong("split", out="data.npz"), ("data.npz", "folder")),
    "parent that is a file": Mistake((*TRAIN, "--out", "data.npz/a/b"), ("data.npz", "folder")),
    "run in a file": Mistake(("run", "demo", "--out", "data.npz"), ("data.npz", "folder")),
    "run among other files": Mistake(("run", "demo", "--out", "modules"), ("modules", "--out")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_one_line_that_names_it_and_nothing_else(
    name: str, counter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = MISTAKES[name]
    monkeypatch.chdir(counter)
    before = files_in(counter)
    outcome = call(*mistake.call)
    assert outcome.code == 2
    assert outcome.out == ""
    # One line: training and search, had they begun, would have told of their first step.
    assert re.fullmatch(r"error: [^\n]+\n", outcome.err), outcome.err
    for part in mistake.names:
        assert part in outcome.err
    assert files_in(counter) == before


def test_the_good_files_are_good(counter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that each of the mistakes above is the only one in its call."""
    monkeypatch.chdir(counter)
    assert call("inspect", "strong.safetensors", "--json").json["net"]["classes"] == list(CLASSES)
    spoil(counter / "strong.safetensors", counter / "same.safetensors")
    assert call("inspect", "same.safetensors").code == 0
    assert struct.unpack("<Q", (counter / "same.safetensors").read_bytes()[:8])[0] < 10_000
