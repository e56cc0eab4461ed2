"""A user's own network on the command line: built, adopted, examined, split, patched, rebuilt."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cnnsplitter.baking import bake
from cnnsplitter.classifier import Classifier
from cnnsplitter.models import build_with_factory
from cnnsplitter.storage.saving import describe, load_as
from shop import CLASSES, call, files_in, succeed, write_npz

SOURCE = """
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Net(nn.Module):
    def __init__(self, width=4, classes=4, odd=False):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, 2 * width, 3, stride=2)
        self.head = nn.Linear(2 * width, classes)
        self.odd = odd

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(x.logcumsumexp(dim=1) if self.odd else x)


def normed():
    net = Net()
    weight_norm(net.first)
    weight_norm(net.second)
    return net


class Pair(Net):
    def forward(self, x, mask):
        return super().forward(x * mask)


def with_weights(path):
    net = Net(width=6)
    net.load_state_dict(torch.load(path, weights_only=True))
    return net
"""
NET = ("--model-arg", "width=6")
REBUILD = ("--model", "own_nets:Net", *NET)
SMALL = ("--population", 4, "--generations", 1, "--search-images", 20)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder: the user's file, images, weights, and a strong model made of them."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "own_nets.py").write_text(SOURCE)
    write_npz(folder / "data.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "dont_write_bytecode", True)
        net = build_with_factory("own_nets:Net", {"width": 6})
        torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, "w.pth")
        torch.save(net.state_dict(), "plain.pth")
        torch.save(build_with_factory("own_nets:normed", {}).state_dict(), "normed.pth")
        how = ("--epochs", 4, "--batch-size", 16, "--kind", "overfit", "--learning-rate", 0.1)
        succeed("train", "own_nets:Net", *NET, *how, "--data", "data.npz", "--out", "strong.st")
        yield folder
    del sys.modules["own_nets"]


def test_the_file_keeps_the_reference_for_information(workshop: Path) -> None:
    architecture = describe("strong.st")["net"]["architecture"]
    assert architecture == {"name": "own_nets:Net", "arguments": {"width": 6}, "baked": False}


@pytest.mark.parametrize(
    "arguments",
    [
        ("evaluate", "strong.st", "--data", "data.npz"),
        ("inspect", "strong.st"),
        ("doctor", "strong.st"),
        ("sensitivity", "strong.st", "--data", "data.npz", "--out", "out"),
        ("split", "strong.st", "--data", "data.npz", "--out", "out"),
        ("patch", "strong.st", "--with", "strong.st", "--data", "data.npz", "--out", "out"),
    ],
)
def test_no_command_runs_what_a_file_names(
    arguments: tuple[str, ...], workshop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "own_nets")
    before = files_in(workshop)
    outcome = call(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert "strong.st: the network of 'net' was built by a factory" in outcome.err
    assert "--model own_nets:Net --model-arg width=6" in outcome.err
    assert "own_nets" not in sys.modules
    assert files_in(workshop) == before


def test_with_the_reference_the_whole_chain_works(workshop: Path) -> None:
    data = ("--data", "data.npz", "--quiet", "--json")
    whole = succeed("evaluate", "strong.st", *REBUILD, *data).json["model"]
    split = succeed("split", "strong.st", *REBUILD, *data, *SMALL, "--out", "modules").json
    assert split["strong_accuracy"] == whole["accuracy"]
    assert {row["class"] for row in split["modules"]} == set(CLASSES)
    composed = succeed("compose", "modules", *REBUILD, "--out", "composed.st", "--json").json
    assert set(composed["classes"]) == set(CLASSES)
    succeed("sensitivity", "strong.st", *REBUILD, *data, *SMALL[-2:], "--out", "curves.json")
    succeed("train", "lenet5", *data, "--epochs", 1, "--out", "weak.st")
    patch = ("--with", "modules/cat.safetensors", *REBUILD, *data, "--out", "patched.st")
    figures = succeed("patch", "weak.st", *patch, "--force-patch").json
    again = succeed("evaluate", "patched.st", "--before", "weak.st", *REBUILD, *data).json
    assert again["after"]["confusion"] == figures["after"]["confusion"]
    assert len(succeed("inspect", "patched.st", *REBUILD, "--json").json["parts"]) == 2


def test_other_arguments_do_not_fit_and_the_right_ones_are_named(workshop: Path) -> None:
    outcome = call("inspect", "strong.st", "--model", "own_nets:Net")
    assert "cannot be cut out of" in outcome.err
    assert "was built by --model own_nets:Net --model-arg width=6" in outcome.err


class TestAdopt:
    def test_class_names_without_images(self, workshop: Path, tmp_path: Path) -> None:
        out = tmp_path / "a.st"
        shape = ("--classes", "bird, cat,dog,ship", "--input-shape", "1,8,8")
        outcome = succeed("adopt", "own_nets:Net", "w.pth", *NET, *shape, "--out", out, "--json")
        assert outcome.json == {"file": str(out)}
        adopted = load_as(
            Classifier, out, build=lambda _: build_with_factory("own_nets:Net", {"width": 6})
        )
        assert (adopted.classes, adopted.input_shape) == (CLASSES, (1, 8, 8))

    def test_classes_put_labels_in_the_order_of_the_logits(
        self, workshop: Path, tmp_path: Path
    ) -> None:
        order = ("--classes", "ship,dog,cat,bird", "--data", "data.npz", "--json")
        net = ("adopt", "own_nets:Net", "w.pth", *NET)
        turned = succeed(*net, *order, "--out", tmp_path / "a.st").json["test"]
        assert turned["classes"] == ["ship", "dog", "cat", "bird"]
        assert [sum(row) for row in turned["confusion"]] == [20] * 4

    def test_a_factory_may_bring_its_weights(self, workshop: Path, tmp_path: Path) -> None:
        data = ("--data", "data.npz", "--json", "--out")
        bring = ("adopt", "own_nets:with_weights", "--model-arg", "path=plain.pth")
        brought = succeed(*bring, *data, tmp_path / "a.st").json
        given = succeed("adopt", "own_nets:Net", "w.pth", *NET, *data, tmp_path / "b.st").json
        assert brought["test"] == given["test"]

    def test_baked_weights_are_saved_and_loaded(self, workshop: Path, tmp_path: Path) -> None:
        data = ("--data", "data.npz", "--json")
        adopt = ("adopt", "own_nets:normed", "normed.pth", *data)
        plain = succeed(*adopt, "--out", tmp_path / "plain.st").json["test"]
        baked = succeed(*adopt, "--bake", "--out", tmp_path / "baked.st").json["test"]
        assert baked == plain
        builder = ("--model", "own_nets:normed")
        found = succeed("doctor", tmp_path / "baked.st", *builder, "--json").json
        assert found["selectable"] == found["kernels"] == 12
        again = load_as(
            Classifier,
            tmp_path / "baked.st",
            build=lambda _: build_with_factory("own_nets:normed", {}),
        )
        assert set(again.net.state_dict()) == set(bake(again.net).state_dict())
        assert "first.weight" in again.net.state_dict()
        assert succeed("evaluate", tmp_path / "baked.st", *builder, *data).json["model"] == baked

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (("lenet5", "--data", "data.npz"), ("'lenet5'", "no weights of its own")),
            (("lenet5", "w.pth"), ("--data", "--classes", "--input-shape")),
            (("lenet5", "w.pth", "--classes", "a,a", "--input-shape", "1,8,8"), ("'a,a'",)),
            (("lenet5", "w.pth", "--classes", "4", "--input-shape", "8,8"), ("--input-shape",)),
            (("lenet5", "w.pth", "--data", "data.npz", "--input-shape", "3,8,8"), ("(3, 8, 8)",)),
            (("lenet5", "w.pth", "--data", "data.npz", "--classes", "bird,cow"), ("cow",)),
            (("own_nets:Nett", "w.pth", "--data", "data.npz"), ("own_nets.py", "'Net'")),
            (("own_nets:Net", "w.pth", "--data", "data.npz"), ("w.pth", "other shape: first.wei")),
            (
                ("own_nets:Net", "w.pth", *NET, "--classes", "3", "--input-shape", "1,8,8"),
                ("(4,)",),
            ),
            (("own_nets:Net", "w.pth", "--model-arg", "wide=6", "--data", "data.npz"), ("'wide'",)),
            (("own_nets:Net", "w.pth", "--model-arg", "wide", "--data", "data.npz"), ("'wide'",)),
        ],
    )
    def test_mistakes_take_one_line(
        self, arguments: tuple[str, ...], names: tuple[str, ...], workshop: Path, tmp_path: Path
    ) -> None:
        outcome = call("adopt", *arguments, "--out", tmp_path / "a.st")
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        for name in names:
            assert name in outcome.err
        assert not list(tmp_path.iterdir())


def test_train_takes_a_factory(workshop: Path, tmp_path: Path) -> None:
    options = ("--data", "data.npz", "--epochs", 1, "--kind", "underfit")
    succeed("train", "own_nets:Net", *NET, *options, "--out", tmp_path / "a.st")
    assert describe(tmp_path / "a.st")["net"]["architecture"]["name"] == "own_nets:Net"


class TestDoctor:
    SHAPE = ("--classes", "4", "--input-shape", "1,8,8")

    def test_tells_of_a_reference_and_of_a_file_the_same(self, workshop: Path) -> None:
        shown = [
            succeed("doctor", *what, *SMALL, "--json").json
            for what in (("own_nets:Net", *NET, *self.SHAPE), ("strong.st", *REBUILD))
        ]
        assert [s["model"] for s in shown] == ["own_nets:Net", "strong.st"]
        assert shown[0]["layers"] == shown[1]["layers"]
        assert shown[0]["selectable"] == 18
        assert shown[0]["estimate"]["images"] == 20
        assert shown[0]["estimate"]["candidates"] == 16

    def test_options_of_adopt_and_split(self, workshop: Path) -> None:
        normed = ("doctor", "own_nets:normed", *self.SHAPE, "--json")
        plain, baked = succeed(*normed).json, succeed(*normed, "--bake").json
        assert (plain["selectable"], baked["selectable"]) == (0, baked["kernels"])
        assert plain["default_search_seconds"] is None
        own = ("doctor", "lenet5", *self.SHAPE, "--json")
        half = succeed(*own, "--width", 0.5).json
        assert 0 < half["kernels"] < succeed(*own).json["kernels"]
        odd = ("doctor", "own_nets:Net", "--model-arg", "odd=true", *self.SHAPE, "--json")
        refused, kept = succeed(*odd).json, succeed(*odd, "--freeze-unknown").json
        assert "logcumsumexp" in refused["obstacle"]
        assert kept["obstacle"] is None
        assert kept["frozen"] == refused["frozen"]

    def test_the_data_says_how_many_images(self, workshop: Path) -> None:
        shown = succeed("doctor", "strong.st", *REBUILD, "--data", "data.npz", "--json").json
        assert shown["estimate"]["images"] == 36
        assert shown["default_search_seconds"] > 0

    def test_weights_are_tried(self, workshop: Path) -> None:
        weights = ("--weights", "w.pth")
        succeed("doctor", "own_nets:Net", *NET, *self.SHAPE, *weights, "--json")
        outcome = call("doctor", "own_nets:Net", *self.SHAPE, *weights)
        assert "other shape: first.weight is [6, 1, 3, 3] but must be [4, 1, 3, 3]" in outcome.err

    def test_for_people_it_is_tables(self, workshop: Path) -> None:
        out = succeed("doctor", "own_nets:Net", *self.SHAPE).out
        assert "12 of 12 kernels (100%) can be selected" in out
        assert out.count("agrees") == 3
        assert "DIFFERS" not in out
        assert "Assumed: the genetic search with 24 individuals per class" in out

    def test_an_unknown_operator_and_what_split_does_about_it(
        self, workshop: Path, tmp_path: Path
    ) -> None:
        odd = ("--model-arg", "odd=true")
        out = succeed("doctor", "own_nets:Net", *odd, *self.SHAPE).out
        assert "4 of 12 kernels (33%) can be selected" in out
        assert "A plain `split` refuses it: operator aten.logcumsumexp" in out
        assert "own_nets.py:17" in out
        net, data = ("own_nets:Net", *odd), ("--data", "data.npz", "--quiet")
        succeed("train", *net, *data, "--epochs", 1, "--out", tmp_path / "odd.st")
        saved = tmp_path / "odd.st"
        places = ("--model", *net, *data, "--out", tmp_path / "modules")
        split: tuple[object, ...] = ("split", saved, *places, *SMALL)
        outcome = call(*split)
        assert outcome.code == 2
        assert "aten.logcumsumexp" in outcome.err
        assert "--freeze-unknown" in outcome.err
        for row in succeed(*split, "--freeze-unknown", "--json").json["modules"]:
            assert 9 <= row["kernels"] <= 12
        task = ("--subtask", "cat,dog", "--search", "importance", "--out", tmp_path / "task")
        assert "--freeze-unknown" in call(*split[: -len(SMALL)], *task).err
        rows = succeed(*split[: -len(SMALL)], *task, "--freeze-unknown", "--json").json["models"]
        assert all(9 <= row["kernels"] <= 24 for row in rows)

    @pytest.mark.parametrize(
        ("arguments", "names"),
        [
            (("strong.st", "--classes", "4", *REBUILD), ("--classes", "strong.st")),
            (("strong.st", "--weights", "w.pth", *REBUILD), ("--weights", "strong.st")),
            (("strong.st", "--bake", *REBUILD), ("--bake", "strong.st")),
            (("strong.st", "--width", "2", *REBUILD), ("--width", "strong.st")),
            (("own_nets:Net",), ("--data", "--input-shape")),
            (("own_nets:Pair", *SHAPE), ("several inputs (x, mask; ", "own_nets.py:", "wrap it")),
            (("own_nets:Net", *SHAPE, "--model", "own_nets:Net"), ("--model", "own_nets:Net")),
            (("strong.st", "--model", "resnet20"), ("--model", "'resnet20'")),
            (("strong.st", "--model-arg", "width=6"), ("--model-arg", "--model")),
            (("none.safetensors",), ("none.safetensors: no such file",)),
            (("resnet200", *SHAPE), ("'resnet200'", "'resnet20'")),
        ],
    )
    def test_mistakes_take_one_line(
        self, arguments: tuple[str, ...], names: tuple[str, ...], workshop: Path
    ) -> None:
        outcome = call("doctor", *arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        for name in names:
            assert name in outcome.err
