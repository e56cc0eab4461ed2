from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import toys
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import (
    SelectionError,
    SettingsError,
    StorageError,
)
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.search import GeneticSearch
from cnnsplitter.splitting import trace
from cnnsplitter.storage.saving import describe, load, load_as, save
from cnnsplitter.subtasks.networks import Subtask, cut, restrict, unite
from cnnsplitter.surgery import masked_forward

TASK = ("7", "1", "4")
GENETIC = GeneticSearch(population=6, parents=4, elites=2, generations=3)


@pytest.mark.parametrize("name", ["weak-rescnn-5", "lenet5", "resnet20", "incecnn"])
def test_restricting_keeps_logits_and_leaves_the_model(name: str) -> None:
    strong = toys.classifier(name)
    before = {key: tensor.clone() for key, tensor in strong.state_dict().items()}
    x = torch.rand(4, *strong.input_shape)
    some = restrict(strong.train(), ("dog", "bird"))
    assert some.classes == ("dog", "bird")
    assert some.training
    torch.testing.assert_close(some.eval()(x), strong.eval()(x)[:, [2, 0]])
    assert all(torch.equal(before[key], tensor) for key, tensor in strong.state_dict().items())
    assert {id(p) for p in some.parameters()}.isdisjoint(id(p) for p in strong.parameters())


def test_a_restricted_model_can_be_saved(tmp_path: Path) -> None:
    some = restrict(toys.classifier(), ("dog", "bird"))
    save(some, tmp_path / "some")
    again = load_as(Classifier, tmp_path / "some")
    x = torch.rand(4, *some.input_shape)
    assert torch.equal(again(x), some.eval()(x))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat",), r"at least two classes, not \(cat\)"),
        (("cat", "cat"), "class 'cat' is named twice"),
        (("cat", "dgo"), "unknown class of the strong model 'dgo'; did you mean 'dog'"),
    ],
)
def test_classes_that_are_no_sub_task_are_refused(classes: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        restrict(toys.classifier(), classes)


@pytest.mark.parametrize("name", ["lenet5", "weak-rescnn-5", "incecnn"])
def test_saved_and_loaded_gives_the_same(name: str, tmp_path: Path) -> None:
    some = restrict(toys.classifier(name), ("dog", "bird"))
    channels = trace(some)
    selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(0))
    narrow = cut(some, channels, selection)
    save(narrow, tmp_path / "task", details={"seed": 1})
    again = load_as(Subtask, tmp_path / "task")
    x = torch.rand(3, *some.input_shape)
    assert torch.equal(again(x), narrow(x))
    assert again.classes == ("dog", "bird")
    assert again.selection == selection
    assert again.sized == narrow.sized
    assert describe(tmp_path / "task")["kind"] == "subtask"


def test_a_patched_sub_task_is_not_saved(tmp_path: Path) -> None:
    some = restrict(toys.classifier(), ("dog", "bird"))
    whole = Subtask.of(some, some.net)
    with pytest.raises(StorageError, match="patched sub-task network cannot be saved"):
        save(PatchedModel(whole, ()), tmp_path / "p")


def test_united_class_modules_keep_the_units_of_all() -> None:
    strong = toys.classifier()
    channels = toys.traced(strong)
    modules = []
    for seed, name in enumerate(("dog", "bird")):
        chosen = channels.random_selection(0.4, generator=torch.Generator().manual_seed(seed))
        modules.append(ClassModule.of(strong, name, selection=chosen))
    both = unite(strong, modules)
    assert both.classes == ("dog", "bird")
    assert modules[0].selection is not None
    assert modules[1].selection is not None
    assert both.selection == modules[0].selection | modules[1].selection
    x = torch.rand(3, *strong.input_shape)
    expected = masked_forward(strong.net, channels, both.selection, strong.preprocessing(x))
    torch.testing.assert_close(both(x), expected[:, [2, 0]], rtol=1e-4, atol=1e-5)


def test_class_modules_that_cannot_be_united_are_refused() -> None:
    strong = toys.classifier()
    known = toys.class_module(strong, "cat")
    with pytest.raises(SettingsError, match="of 'dog' does not know which units"):
        unite(strong, [known, ClassModule.of(strong, "dog")])
    with pytest.raises(SettingsError, match="'cat' is named twice"):
        unite(strong, [known, known])
    other = toys.class_module(toys.classifier("lenet5"), "dog")
    with pytest.raises(SelectionError, match="different networks"):
        unite(strong, [known, other])
    with pytest.raises(SelectionError, match="another network"):
        unite(toys.classifier(width=0.2), [known, toys.class_module(strong, "dog")])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("classes", ["dog", "bird", "cat"], "3 classes are named"),
        ("sized", {"conv_0.nonsense": 3}, "cannot take the size"),
        ("selection", {"units": 9999, "fingerprint": "x"}, "'selection0' must be there and hold"),
        ("selection", 5, "manifest is wrong at"),
        ("extra", 5, "manifest is wrong at"),
        ("architecture", None, "pass build="),
    ],
)
def test_files_that_were_tampered_with_are_refused(
    part: str, value: object, message: str, tmp_path: Path
) -> None:
    some = restrict(toys.classifier("lenet5"), ("dog", "bird"))
    channels = trace(some)
    save(cut(some, channels, channels.full_selection()), tmp_path / "task")
    tensors, manifest = read_tensors(tmp_path / "task")
    manifest["net"][part] = value
    write_tensors(tmp_path / "task", tensors, manifest)
    with pytest.raises(StorageError, match=message):
        load(tmp_path / "task")


def test_a_network_of_the_user_is_built_anew(tmp_path: Path) -> None:
    def build(name: str = "net") -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 196, 3))

    some = restrict(toys.own_classifier(build()), ("cat", "dog"))
    channels = trace(some)
    selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(0))
    narrow = cut(some, channels, selection)
    save(narrow, tmp_path / "task")
    again = load(tmp_path / "task", build=build)
    assert isinstance(again, Subtask)
    x = torch.rand(2, *some.input_shape)
    assert torch.equal(again(x), narrow(x))
