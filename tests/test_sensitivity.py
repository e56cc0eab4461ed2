import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import toys
from cnnsplitter.errors import StorageError
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.progress import Step
from cnnsplitter.scoring import CutScorer
from cnnsplitter.selection import Selection
from cnnsplitter.sensitivity import Sensitivity, keep_most_important, measure_sensitivity
from cnnsplitter.surgery import extract

RATIOS = (0.2, 0.5, 0.8, 1.0)


def curves(*accuracy: list[float], ratios: tuple[float, ...] = RATIOS) -> Sensitivity:
    names = tuple(f"conv{i}" for i in range(len(accuracy)))
    return Sensitivity(names, ratios, torch.tensor(accuracy))


@pytest.fixture(scope="module")
def scorer() -> CutScorer:
    strong = toys.classifier("weak-rescnn", width=0.15)
    return CutScorer(strong, toys.traced(strong), toys.image_set(60))


@pytest.fixture(scope="module")
def importance(scorer: CutScorer) -> Importance:
    return measure_importance(scorer.strong, scorer.channels, scorer.data, confidence=0.0)


def composed_by_hand(scorer: CutScorer, keep: Tensor) -> float:
    """Accuracy of the class modules cut out one by one."""
    strong = scorer.strong
    scores = []
    for column, units in enumerate(keep):
        selection = Selection(units, scorer.channels.fingerprint)
        net = extract(strong.net, scorer.channels, selection)
        narrow = type(strong)(net, strong.classes, strong.input_shape, strong.preprocessing)
        scores.append(predict(narrow, scorer.data)[:, column])
    return (torch.stack(scores).argmax(0) == scorer.data.labels).double().mean().item()


def test_equals_composing_extracted_modules(scorer: CutScorer, importance: Importance) -> None:
    found = measure_sensitivity(scorer, importance, scorer.data.labels, ratios=(0.7, 0.2, 1.0))
    assert found.ratios == (0.2, 0.7, 1.0)
    for group, row in zip(scorer.channels.groups, found.accuracy, strict=True):
        for ratio, accuracy in zip(found.ratios, row.tolist(), strict=True):
            keep = torch.ones(3, scorer.channels.unit_count, dtype=torch.bool)
            for column in range(3):
                keep[column, group.units] = False
                ranked = sorted(group.units.tolist(), key=lambda u: -importance.scores[column, u])
                keep[column, ranked[: max(1, round(ratio * len(ranked)))]] = True
            assert accuracy == pytest.approx(composed_by_hand(scorer, keep), abs=1e-6)
    assert found.groups == tuple(group.name for group in scorer.channels.groups)
    assert len(set(found.accuracy[:, :-1].flatten().tolist())) > 1


def test_everything_kept_is_the_strong_model(scorer: CutScorer, importance: Importance) -> None:
    found = measure_sensitivity(scorer, importance, scorer.data.labels, ratios=(0.5,))
    logits = predict(scorer.strong, scorer.data)
    right = (logits.argmax(1) == scorer.data.labels).double().mean().item()
    assert found.accuracy[:, -1].tolist() == pytest.approx([right] * len(found.groups))
    assert found.baseline == pytest.approx(right)


def test_every_point_is_told(scorer: CutScorer, importance: Importance) -> None:
    steps: list[Step] = []
    labels, ratios = scorer.data.labels, (0.3, 0.6)
    found = measure_sensitivity(scorer, importance, labels, ratios=ratios, progress=steps.append)
    count = 2 * len(found.groups)
    assert [(s.stage, s.done, s.total) for s in steps] == [
        ("sensitivity", i + 1, count) for i in range(count)
    ]
    told = [step.values["accuracy"] for step in steps]
    assert told == found.accuracy[:, :-1].flatten().tolist()


@given(st.floats(0.01, 1.0))
def test_the_most_important_units_are_kept(ratio: float) -> None:
    channels = toys.traced(toys.classifier("weak-rescnn", width=0.15))
    scores = torch.rand(3, channels.unit_count, generator=torch.Generator().manual_seed(1))
    importance = Importance(scores, torch.ones(3), torch.ones(3).bool(), channels.fingerprint)
    full = torch.ones(3, channels.unit_count, dtype=torch.bool)
    for group in channels.groups:
        keep = keep_most_important(full, channels, importance, group, ratio)
        kept = keep[:, group.units]
        assert (kept.sum(1) == max(1, round(ratio * len(group.units)))).all()
        least_kept = scores[:, group.units].where(kept, torch.inf).min(1).values
        assert (scores[:, group.units].where(~kept, -torch.inf).max(1).values <= least_kept).all()
        others = torch.ones(channels.unit_count, dtype=torch.bool)
        others[group.units] = False
        assert keep[:, others].all()
    assert full.all()


def test_knees_of_known_curves() -> None:
    found = curves(
        [0.9, 0.9, 0.9, 0.9],  # nothing is lost
        [0.1, 0.2, 0.5, 0.9],  # everything is
        [0.9, 0.5, 0.9, 0.9],  # a dip after a good start
        [0.1, 0.88, 0.95, 0.9],  # a quarter of 0.1 may be lost
    )
    assert found.knees(tolerance=0.1) == (0.2, 1.0, 0.8, 0.5)
    assert found.knees(tolerance=0.04) == (0.2, 1.0, 0.8, 0.8)
    assert found.knees(tolerance=4.0) == (0.2,) * 4
    assert found.sensitive(tolerance=0.1) == ("conv1", "conv2")
    assert found.sensitive(tolerance=4.0) == ()
    assert found.start_ratios(tolerance=0.1) == {
        "conv0": (0.2, 0.5, 0.8),
        "conv1": (1.0,),
        "conv2": (0.8, 1.0),
        "conv3": (0.5, 0.8, 1.0),
    }


def test_json_round_trip() -> None:
    found = curves([0.125, 0.25, 0.5, 0.75], [0.5, 0.75, 0.75, 0.75])
    value = json.loads(json.dumps(found.to_json()))
    again = Sensitivity.from_json(value)
    assert (again.groups, again.ratios) == (found.groups, found.ratios)
    assert torch.equal(again.accuracy, found.accuracy)
    assert value["sensitive"] == ["conv0"]
    assert value["start_ratios"]["conv1"] == [0.5, 0.8, 1.0]


GOOD: dict[str, Any] = {"ratios": [0.5, 1], "accuracy": {"conv0": [0.5, 0.75]}}


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "curves",
        {},
        GOOD | {"ratios": None},
        GOOD | {"ratios": []},
        GOOD | {"ratios": [0.5, 0.75]},
        GOOD | {"ratios": [1.5, 1]},
        GOOD | {"ratios": [0, 1]},
        GOOD | {"ratios": ["a", 1]},
        GOOD | {"ratios": [0.25, 0.5, 1]},
        GOOD | {"ratios": [10**400, 1]},
        GOOD | {"accuracy": {}},
        GOOD | {"accuracy": [[0.5, 0.75]]},
        GOOD | {"accuracy": {"conv0": [0.5]}},
        GOOD | {"accuracy": {"conv0": [0.5, 0.75], "conv1": [0.5]}},
        GOOD | {"accuracy": {"conv0": [0.5, None]}},
        GOOD | {"accuracy": {"conv0": [0.5, "a"]}},
        GOOD | {"accuracy": {"conv0": [0.5, 10**400]}},
        GOOD | {"accuracy": {"conv0": [float("nan"), 0.75]}},
        GOOD | {"accuracy": {"conv0": [0.5, 1.5]}},
    ],
)
def test_other_json_is_refused(value: Any) -> None:
    Sensitivity.from_json(GOOD)
    with pytest.raises(StorageError, match="no sensitivity curves"):
        Sensitivity.from_json(value)
