from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_score, recall_score

from cnnsplitter.calibration import LearnedCalibration
from cnnsplitter.errors import SettingsError
from cnnsplitter.patches.combining import RULES, Joint, Observations, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.operating_point import OBJECTIVES, best_shift
from observed import observations

METRICS = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
seeds = st.integers(0, 1000)
rules = st.sampled_from(sorted(RULES))


def shifted(joint: Joint, shift: float) -> Joint:
    (old,) = joint.calibrations
    assert isinstance(old, LearnedCalibration)
    return replace(joint, calibrations=(replace(old, bias=old.bias + shift),))


def figures(joint: Joint, seen: Observations, metric: str) -> tuple[float, float]:
    """The metric of the patched class, and the accuracy on the others."""
    predicted = outputs_of(joint, seen).argmax(1)
    is_target = seen.labels == seen.layout.patched[0]
    value = METRICS[metric](is_target, predicted == seen.layout.patched[0], zero_division=0)
    return value, (predicted == seen.labels)[~is_target].double().mean().item()


@settings(max_examples=15)
@given(seeds, st.sampled_from(sorted(METRICS)), st.floats(-0.1, 0.02), st.floats(-4, 4), rules)
def test_no_other_shift_is_better(
    seed: int, metric: str, floor: float, other: float, rule: str
) -> None:
    seen = observations(n=120, seed=seed, skill=1.0, blind=1.0)
    joint = fit(Fitting(rule=rule), seen)
    best = shifted(joint, best_shift(metric, floor, joint, seen, 0))
    value, others = figures(best, seen, metric)
    weak = outputs_of(joint, seen, without=0).argmax(1)
    is_target = seen.labels == 1
    least = (weak == seen.labels)[~is_target].double().mean().item() + floor
    rival, rival_others = figures(shifted(joint, other), seen, metric)
    if others < least - 1e-9:  # No bias reaches the floor: this one comes nearest.
        assert floor > 0 or rule == "replace"
        assert rival_others <= others + 1e-9
        return
    recall_kept = metric != "precision" or (
        figures(shifted(joint, other), seen, "recall")[0]
        >= recall_score(is_target, weak == 1, zero_division=0)
    )
    if rival_others >= least and recall_kept:
        assert value >= rival - 1e-9


@given(seeds)
def test_likelihood_leaves_the_bias_where_the_floor_allows(seed: int) -> None:
    seen = observations(n=120, seed=seed)
    joint = fit(Fitting(floor=-1), seen)
    assert best_shift("likelihood", -1, joint, seen, 0) == 0
    strict = shifted(joint, best_shift("likelihood", 0, joint, seen, 0))
    others = (seen.labels != 1).nonzero().flatten()
    before = outputs_of(joint, seen, without=0).argmax(1)[others] == seen.labels[others]
    after = outputs_of(strict, seen).argmax(1)[others] == seen.labels[others]
    assert after.sum() >= before.sum()


def test_every_objective_is_fitted() -> None:
    seen = observations(skill=1.0)
    found = {name: fit(Fitting(objective=name, floor=-0.3), seen) for name in OBJECTIVES}
    hits = {
        name: (outputs_of(joint, seen).argmax(1) == 1)[seen.labels == 1].sum()
        for name, joint in found.items()
    }
    assert hits["recall"] >= max(hits.values())
    assert len({joint.calibrations for joint in found.values()}) > 1
    assert found["f1"] == fit(Fitting(objective="f1", floor=-0.3), seen)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'recall'"):
        Fitting(objective="recal")
    with pytest.raises(SettingsError, match="'min-max' has no bias to set for 'f1'"):
        Fitting("min-max", objective="f1")
    with pytest.raises(SettingsError, match="floor must lie between"):
        Fitting(floor=-2)
    with pytest.raises(SettingsError, match="gate must be a share"):
        Fitting(gate=95)


def test_likelihood_is_held_to_the_weak_model_among_many_patches() -> None:
    seen = observations(n=200, patched=(0, 1, 2, 3), skill=3.0, blind=2.0)
    free, held = fit(Fitting(floor=-1), seen), fit(Fitting(), seen)
    assert held == free  # All are far better than the weak model, whatever they take.
