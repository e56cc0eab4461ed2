import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError, SettingsError
from cnnsplitter.evaluation import Comparison, classify, compare, count, evaluate

NAMES = ("bird", "cat", "dog", "ship")


class Lookup(nn.Module):
    """The pixel of a one-pixel image is the class that it predicts."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.register_buffer("outputs", outputs)
        self.outputs: Tensor

    def forward(self, images: Tensor) -> Tensor:
        return self.outputs[images.flatten().long()]


def pixels(values: list[int], labels: list[int], classes: tuple[str, ...] = NAMES) -> ImageSet:
    images = torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet.from_arrays(images, torch.tensor(labels), classes, name="pixels.npz")


@st.composite
def predictions(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    n_classes = draw(st.integers(2, 5))
    n = draw(st.integers(1, 60))
    labels = st.lists(st.integers(0, n_classes - 1), min_size=n, max_size=n)
    return n_classes, draw(labels), draw(labels)


@given(predictions())
def test_metrics_equal_scikit_learn(case: tuple[int, list[int], list[int]]) -> None:
    n, labels, predicted = case
    names = tuple(f"c{i}" for i in range(n))
    result = count(torch.tensor(labels), torch.tensor(predicted), names)
    assert result.confusion.dtype == torch.int64
    expected = confusion_matrix(labels, predicted, labels=range(n))
    assert (result.confusion.numpy() == expected).all()
    assert result.accuracy == pytest.approx(accuracy_score(labels, predicted))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(n), zero_division=0
    )
    assert result.precision.numpy() == pytest.approx(precision)
    assert result.recall.numpy() == pytest.approx(recall)
    assert result.f1.numpy() == pytest.approx(f1)
    for i, name in enumerate(names):
        assert result.count(name) == support[i]
        rest = np.array(labels) != i
        others = (np.array(predicted)[rest] == np.array(labels)[rest]).mean() if rest.any() else 0
        assert result.others_accuracy(name) == pytest.approx(others)


@given(predictions(), st.data())
def test_comparison_follows_every_flip(
    case: tuple[int, list[int], list[int]], data: st.DataObject
) -> None:
    n, labels, before = case
    after = data.draw(st.lists(st.integers(0, n - 1), min_size=len(labels), max_size=len(labels)))
    names = tuple(f"c{i}" for i in range(n))
    result = Comparison(
        names, names, torch.tensor(labels), torch.tensor(before), torch.tensor(after)
    )
    lost = [i for i, y in enumerate(labels) if before[i] == y != after[i]]
    won = [i for i, y in enumerate(labels) if before[i] != y == after[i]]
    assert result.right_to_wrong.tolist() == lost
    assert result.wrong_to_right.tolist() == won
    gain = (result.after.accuracy - result.before.accuracy) * len(labels)
    assert gain == pytest.approx(len(won) - len(lost))
    for name, row in zip(names, result.rows(), strict=True):
        assert row["target"] == name
        assert row["n_target"] == labels.count(names.index(name))
        assert row["n_other"] == len(labels) - labels.count(names.index(name))
        for stage, evaluation in (("before", result.before), ("after", result.after)):
            i = names.index(name)
            assert row[f"precision_{stage}"] == evaluation.precision[i].item()
            assert row[f"recall_{stage}"] == evaluation.recall[i].item()
            assert row[f"f1_{stage}"] == evaluation.f1[i].item()
            assert row[f"other_{stage}"] == evaluation.others_accuracy(name)
    stored = json.loads(json.dumps(result.to_json()))
    assert stored["rows"] == result.rows()
    assert stored["right_to_wrong"] == lost
    assert stored["wrong_to_right"] == won
    assert stored["after"]["confusion"] == result.after.confusion.tolist()


@given(predictions(), st.floats(0.1, 1000))
def test_weights_restore_a_balance(case: tuple[int, list[int], list[int]], images: float) -> None:
    n, labels, predicted = case
    names = tuple(f"c{i}" for i in range(n))
    found = count(torch.tensor(labels), torch.tensor(predicted), names).weighted(images)
    weights = [images / labels.count(label) for label in labels]
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predicted, labels=range(n), zero_division=0, sample_weight=weights
    )
    assert found.precision.numpy() == pytest.approx(precision)
    assert found.recall.numpy() == pytest.approx(recall)
    assert found.f1.numpy() == pytest.approx(f1)


def test_evaluate_by_hand() -> None:
    data = pixels([0, 1, 2, 3, 0, 0], [0, 1, 2, 3, 1, 2])
    result = evaluate(Lookup(torch.eye(4)), data)
    assert result.confusion.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.others_accuracy("bird") == pytest.approx(3 / 5)
    assert result.precision.tolist() == pytest.approx([1 / 3, 1, 1, 1])


def test_compare_by_hand_defaults_to_all_classes() -> None:
    data = pixels([0, 1, 2], [0, 1, 2])
    before, after = Lookup(torch.eye(4)), Lookup(torch.eye(4)[[0, 2, 2, 3]])
    result = compare(before, after, data)
    assert result.targets == NAMES
    assert result.right_to_wrong.tolist() == [1]
    assert not len(result.wrong_to_right)
    assert compare(before, after, data, ["cat"]).targets == ("cat",)


def test_data_without_some_of_the_classes_are_blamed_and_not_the_target() -> None:
    model = Lookup(torch.eye(4))
    model.classes, model.targets = NAMES, ("dog",)  # type: ignore[assignment]
    some = pixels([0, 1], [0, 1], NAMES[:2])
    with pytest.raises(DataError, match=r"has the classes \(bird, cat, dog, ship\) but .* \(bird,"):
        compare(model, model, some)


def test_compare_defaults_to_the_targets_of_the_model() -> None:
    after = Lookup(torch.eye(4))
    after.targets = ("dog",)  # type: ignore[assignment]
    assert compare(Lookup(torch.eye(4)), after, pixels([0], [0])).targets == ("dog",)


def test_unknown_class_names_the_nearest() -> None:
    model, data = Lookup(torch.eye(4)), pixels([0], [0])
    with pytest.raises(SettingsError, match="did you mean 'bird'"):
        compare(model, model, data, ["brid"])
    with pytest.raises(SettingsError, match="did you mean 'bird'"):
        evaluate(model, data).others_accuracy("brid")


def test_number_of_outputs_is_checked() -> None:
    with pytest.raises(DataError, match=r"shape \(3,\) but pixels.npz has 4 classes"):
        evaluate(Lookup(torch.eye(4)[:, :3]), pixels([0], [0]))


def test_names_of_the_classes_are_checked() -> None:
    model = Lookup(torch.eye(4))
    model.classes = NAMES[::-1]  # type: ignore[assignment]
    with pytest.raises(DataError, match="relabel"):
        classify(model, pixels([0], [0]))


def test_nothing_to_evaluate() -> None:
    data = pixels([0], [0]).only(["ship"])
    with pytest.raises(DataError, match=r"pixels\.npz holds no image"):
        evaluate(Lookup(torch.eye(4)), data)


def test_nan_outputs_are_refused() -> None:
    with pytest.raises(ModelError, match="NaN outputs"):
        evaluate(Lookup(torch.full((4, 4), torch.nan)), pixels([0], [0]))
