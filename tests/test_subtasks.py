from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import Splits, load_data
from cnnsplitter.errors import (
    DataError,
    SelectionError,
    SettingsError,
    StorageError,
    UnsupportedModelError,
)
from cnnsplitter.evaluation import evaluate
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.patching import PatchedModel
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.search import GeneticSearch, RandomSearch, Search, ThresholdSearch
from cnnsplitter.splitting import limited, trace
from cnnsplitter.storage import describe, load_as, save
from cnnsplitter.subtasks import (
    FoundSubtask,
    MarginScorer,
    Subtask,
    cut,
    restrict,
    subtask,
    unite,
)
from cnnsplitter.surgery import masked_forward
from cnnsplitter.training import Training, train

TASK = ("7", "1", "4")
GENETIC = GeneticSearch(population=6, parents=4, elites=2, generations=3)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits")


@pytest.fixture(scope="module")
def strong(digits: Splits) -> Classifier:
    net, architecture = build_model("lenet5", 10, digits.input_shape)
    start = Classifier(net, digits.classes, digits.input_shape, Preprocessing(), architecture)
    return train(start, digits.train, None, Training(epochs=4, batch_size=32), seed=0).classifier


@pytest.fixture(scope="module")
def found(strong: Classifier, digits: Splits) -> FoundSubtask:
    return subtask(strong, TASK, digits, search=GENETIC, seed=3, search_images=60)


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


class ConvHead(nn.Module):
    """The logits are averages of a convolution's outputs, as in SqueezeNet."""

    def __init__(self, scale: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.last = nn.Conv2d(5, 3, 1)
        self.scale = nn.Parameter(torch.rand(3)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.last(torch.relu(self.first(x)))).mean((2, 3))
        return y if self.scale is None else y * self.scale


def test_a_convolution_can_be_the_head() -> None:
    strong = toys.own_classifier(ConvHead())
    x = torch.rand(2, *strong.input_shape)
    torch.testing.assert_close(restrict(strong, ("dog", "cat"))(x), strong(x)[:, [2, 1]])


def test_a_head_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"ConvHead are not .* layer \('last'\)"):
        restrict(toys.own_classifier(ConvHead(scale=True)), ("dog", "cat"))


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


def test_margins_are_positive_where_the_masked_network_is_right() -> None:
    strong = toys.classifier()
    channels = toys.traced(strong)
    data = toys.image_set(40)
    selection = channels.random_selection(0.6, generator=torch.Generator().manual_seed(0))
    scorer = MarginScorer(strong, channels, data, batch_size=16)
    margins = scorer(torch.zeros(1, dtype=torch.int64), selection.keep[None])
    (images, labels), *_ = data.batches(40)
    with torch.no_grad():
        logits = masked_forward(strong.net, channels, selection, strong.preprocessing(images))
    for row, (own, label) in enumerate(zip(logits, labels.tolist(), strict=True)):
        others = torch.cat([own[:label], own[label + 1 :]])
        torch.testing.assert_close(margins[0, row], own[label] - others.max())
    whole = channels.full_selection().keep[None]
    expected = scorer(torch.zeros(1, dtype=torch.int64), whole)
    torch.testing.assert_close(scorer.whole(), expected)


def test_the_network_has_the_recorded_accuracy(found: FoundSubtask, digits: Splits) -> None:
    images = limited(digits.search.relabel(TASK), 60, 3)
    assert evaluate(found.model, images).accuracy == pytest.approx(found.result.accuracy)
    assert found.result.accuracy > 0.5
    assert found.model.classes == TASK
    assert found.model.selection is not None
    assert 0 < found.model.selection.share < 1


def test_the_strong_model_is_left_as_it_was(found: FoundSubtask, strong: Classifier) -> None:
    assert found.strong_weights == strong.weights_digest()


@pytest.mark.parametrize("search", [ThresholdSearch(keep=0.6), RandomSearch(keep=0.6), GENETIC])
def test_equal_seeds_give_equal_networks(
    search: Search, strong: Classifier, digits: Splits
) -> None:
    one, two = (
        subtask(strong, TASK, digits, search=search, seed=1, search_images=30) for _ in range(2)
    )
    assert one.model.selection == two.model.selection


def test_rows_compare_all_ways(found: FoundSubtask, strong: Classifier, digits: Splits) -> None:
    modules = {name: ClassModule.of(strong, name) for name in TASK}
    rows = found.rows(digits.test, modules)
    assert [row["model"] for row in rows] == ["strong model", "sub-task", "class modules"]
    images = digits.test.relabel(TASK)
    columns = [strong.classes.index(name) for name in TASK]
    right = predict(strong, images)[:, columns].argmax(1) == images.labels
    # Whole class modules answer as the strong model does, at as many times its cost.
    assert rows[0]["accuracy"] == rows[2]["accuracy"] == pytest.approx(right.double().mean().item())
    assert rows[1]["accuracy"] == evaluate(found.model, images).accuracy
    macs = [row["macs"] for row in rows]
    assert macs[0] == measure_cost(found.strong, digits.input_shape).multiply_adds
    assert float(macs[2]) > 2.9 * float(macs[0]) > 2.9 * float(macs[1])
    assert [row["model"] for row in found.rows(digits.test)] == ["strong model", "sub-task"]


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


def test_a_patched_sub_task_is_not_saved(found: FoundSubtask, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="patched sub-task network cannot be saved"):
        save(PatchedModel(found.model, ()), tmp_path / "p")


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


def test_what_cannot_be_searched_is_refused(strong: Classifier, digits: Splits) -> None:
    none = Splits(digits.train, digits.search.only("17"), digits.calibration, digits.test)
    with pytest.raises(DataError, match="no image of 4, but the search needs"):
        subtask(strong, TASK, none)
    with pytest.raises(DataError, match="has images of shape"):
        subtask(strong, TASK, toys.splits(50, classes=digits.classes))
    with pytest.raises(SettingsError, match="unknown class"):
        subtask(strong, TASK, digits.relabel("123"))
