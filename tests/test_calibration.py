import json
import math
import sys
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.calibration import (
    METHODS,
    Calibration,
    IsotonicCalibration,
    LearnedCalibration,
    LinearCalibration,
    NormalCalibration,
    RangeCalibration,
    calibration_from_json,
    fit_calibration,
)
from cnnsplitter.errors import DataError, SettingsError, StorageError

numbers = st.floats(-1e4, 1e4, width=32)
score_lists = st.lists(numbers, min_size=2, max_size=40)
methods = st.sampled_from(METHODS)


def fit(method: str, values: list[float], *, clip: bool = True) -> Calibration:
    scores = torch.tensor(values)
    return fit_calibration(method, scores, torch.ones_like(scores, dtype=torch.bool), clip=clip)


def fit_or_skip(method: str, values: list[float], *, clip: bool = True) -> Calibration:
    try:
        return fit(method, values, clip=clip)
    except DataError:
        assume(False)
        raise


def test_min_max_by_hand() -> None:
    scores = torch.tensor([9.0, 2.0, 4.0, 6.0, -7.0])
    is_target = torch.tensor([False, True, True, True, False])
    published = fit_calibration("min-max", scores, is_target, clip=False)
    assert published(scores).tolist() == [1.75, 0.0, 0.5, 1.0, -2.25]
    clipped = fit_calibration("min-max", scores, is_target)
    assert clipped(scores).tolist() == [1.0, 0.0, 0.5, 1.0, 0.0]


def test_no_score_on_the_fence_is_an_outlier() -> None:
    """The quartiles are 0 and 2, so that the fences are -3 and 5."""
    inside = fit("outlier", [-3.0, 0.0, 1.0, 2.0, 5.0])
    assert inside == RangeCalibration("outlier", -3.0, 5.0)
    beyond = fit("outlier", [-3.001, 0.0, 1.0, 2.0, 5.001])
    assert beyond == RangeCalibration("outlier", 0.0, 2.0)


def test_percentile_is_the_range_from_5_to_95() -> None:
    rule = fit("percentile", [float(v) for v in range(101)])
    assert isinstance(rule, RangeCalibration)
    assert [rule.low, rule.high] == pytest.approx([5, 95])


def test_outlier_ignores_a_far_score() -> None:
    values = [float(v) for v in range(20)]
    assert fit("outlier", [*values, 1e4, -1e4]) == fit("outlier", values)
    assert fit("min-max", [*values, 1e4]) != fit("min-max", values)


@given(score_lists)
def test_z_score_equals_scipy(values: list[float]) -> None:
    rule = fit_or_skip("z-score", values)
    target = torch.tensor(values).double()
    # SciPy loses the spread of nearly constant values to rounding.
    assume(target.std() > 1e-6 * (1 + target.abs().max()))
    expected = scipy.stats.norm.cdf(scipy.stats.zscore(target.numpy()))
    assert rule(target).numpy() == pytest.approx(expected, abs=1e-6)


@given(methods, score_lists, st.lists(numbers, min_size=2, max_size=40), st.booleans())
def test_monotone(method: str, values: list[float], points: list[float], clip: bool) -> None:
    rule = fit_or_skip(method, values, clip=clip)
    calibrated = rule(torch.tensor(sorted(points)).double())
    assert (calibrated.diff() >= -1e-12).all()


@given(methods, score_lists, st.lists(numbers, min_size=1, max_size=40))
def test_default_stays_in_0_1(method: str, values: list[float], points: list[float]) -> None:
    calibrated = fit_or_skip(method, values)(torch.tensor(points))
    assert ((calibrated >= 0) & (calibrated <= 1)).all()


@given(methods, score_lists, st.floats(0.1, 10), numbers)
def test_scale_and_shift_do_not_matter(
    method: str, values: list[float], scale: float, shift: float
) -> None:
    target = torch.tensor(values).double()
    everyone = torch.ones(len(values), dtype=torch.bool)
    low, high = target.quantile(0.25), target.quantile(0.75)
    # Rounding may move a score over the limit for outliers, or hide a narrow spread.
    assume(method != "outlier" and high - low > 1)
    moved = target * scale + shift
    plain = fit_calibration(method, target, everyone)(target)
    assert torch.allclose(fit_calibration(method, moved, everyone)(moved), plain, atol=1e-6)


@given(methods, score_lists, st.lists(numbers, max_size=20), st.randoms())
def test_depends_on_the_target_scores_only(
    method: str, values: list[float], others: list[float], random: Any
) -> None:
    rule = fit_or_skip(method, values)
    pairs = [(v, True) for v in values] + [(v, False) for v in others]
    random.shuffle(pairs)
    scores, flags = zip(*pairs, strict=True)
    again = fit_calibration(method, torch.tensor(scores), torch.tensor(flags))
    sample = torch.tensor(values)
    assert torch.allclose(again(sample), rule(sample), atol=1e-5)


@given(methods, score_lists, st.booleans())
def test_json_round_trip(method: str, values: list[float], clip: bool) -> None:
    rule = fit_or_skip(method, values, clip=clip)
    assert calibration_from_json(json.loads(json.dumps(rule.to_json()))) == rule


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.1, -3e4])
def test_constant_scores_are_refused(method: str, value: float) -> None:
    with pytest.raises(DataError, match="no spread in the 3 scores"):
        fit(method, [value] * 3)


def test_the_narrowest_range_is_the_smallest_normal_number() -> None:
    least = torch.finfo(torch.float32).tiny
    assert fit("min-max", [0.0, least]) == RangeCalibration("min-max", 0.0, least)
    with pytest.raises(DataError, match="no spread in the 2 scores"):
        fit("min-max", [0.0, least / 2])


def test_every_finite_number_is_one() -> None:
    most = sys.float_info.max
    assert RangeCalibration("min-max", -most, most).high == most


weights = st.floats(0, 5, width=32)


@given(weights, weights, weights, numbers, st.lists(st.tuples(numbers, numbers, numbers)))
def test_learned_log_odds_are_the_sum(
    scale: float, own: float, rest: float, bias: float, rows: list[tuple[float, ...]]
) -> None:
    rule = LearnedCalibration("learned", scale, bias, own, rest)
    seen = torch.tensor(rows, dtype=torch.float64).view(-1, 3)
    alone = [scale * score + bias for score, _, _ in rows]
    whole = [scale * score + bias + own * p - rest * q for score, p, q in rows]
    assert rule.log_odds(seen[:, 0]).tolist() == pytest.approx(alone)
    found = rule.log_odds(seen[:, 0], seen[:, 1:])
    assert found.tolist() == pytest.approx(whole, abs=1e-9)
    assert rule(seen[:, 0], seen[:, 1:]).numpy() == pytest.approx(
        scipy.special.expit(found.numpy())
    )


@given(score_lists, st.data())
def test_isotonic_is_numpys_interpolation(values: list[float], data: st.DataObject) -> None:
    points = sorted(set(values))
    drawn = st.lists(st.floats(0, 1), min_size=len(points), max_size=len(points))
    shares = sorted(data.draw(drawn))
    rule = IsotonicCalibration("isotonic", tuple(points), tuple(shares))
    scores = torch.tensor(data.draw(st.lists(numbers)) + points, dtype=torch.float64)
    assert rule(scores).numpy() == pytest.approx(np.interp(scores, points, shares), abs=1e-9)
    assert rule(scores.float()).dtype == torch.float32


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_the_linear_rule_is_a_linear_layer(classes: int) -> None:
    layer = nn.Linear(classes, classes)
    rows = tuple(map(tuple, layer.weight.tolist()))
    rule = LinearCalibration("linear", rows, tuple(layer.bias.tolist()))
    scores = torch.randn(4, classes, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rule(scores), layer(scores).detach())


@pytest.mark.parametrize("name", ["scale", "own", "rest"])
def test_weights_of_learned_rules_are_not_negative(name: str) -> None:
    none = {"kind": "learned", "scale": 0.0, "bias": -1.0, "own": 0.0, "rest": 0.0}
    assert calibration_from_json(none) == LearnedCalibration("learned", 0.0, -1.0, 0.0, 0.0)
    with pytest.raises(StorageError, match=f"{name} must not be negative"):
        calibration_from_json({**none, name: -0.1})
    with pytest.raises(StorageError, match=f"{name} must be a finite"):
        calibration_from_json({**none, name: math.nan})


EVERYONE = torch.ones(2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("scores", "is_target", "message"),
    [
        (torch.tensor([1.0, 2.0]), ~EVERYONE, "no calibration image of the target class"),
        (torch.tensor([1.0, math.nan]), EVERYONE, "NaN or infinite"),
        (torch.tensor([1.0, math.inf]), ~EVERYONE, "NaN or infinite"),
        (torch.ones(3), EVERYONE, "is_target bool"),
        (torch.ones(2), torch.ones(2), "is_target bool"),
        (torch.ones(2, 1), EVERYONE[:, None], "scores float"),
    ],
)
def test_bad_scores_are_refused(scores: Tensor, is_target: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_calibration("min-max", scores, is_target)


def test_unknown_method_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'min-max'"):
        fit("minmax", [1.0, 2.0])


GOOD: dict[str, Any] = {"kind": "min-max", "low": 0.0, "high": 1, "clip": True}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'kind'"),
        ([GOOD], "'kind'"),
        ({}, "'kind'"),
        ({**GOOD, "kind": ["min-max"]}, "'kind'"),
        ({**GOOD, "kind": "learnt"}, "learnt"),
        ({**GOOD, "extra": 1}, "needs the keys"),
        ({"kind": "min-max", "low": 0.0, "high": 1.0}, "needs the keys"),
        ({**GOOD, "kind": "z-score"}, "needs the keys"),
        ({**GOOD, "low": math.nan}, "low must be a finite"),
        ({**GOOD, "high": math.inf}, "high must be a finite"),
        ({**GOOD, "high": 10**400}, "high must be a finite"),
        ({**GOOD, "high": True}, "high must be a finite"),
        ({**GOOD, "low": "0"}, "low must be a finite"),
        ({**GOOD, "low": 1.0}, "below high"),
        ({**GOOD, "clip": 1}, "clip"),
        ({"kind": "z-score", "mean": 0.0, "std": 0.0}, "std must be positive"),
        ({"kind": "isotonic", "points": [], "shares": []}, "equally many, at least one"),
        ({"kind": "isotonic", "points": [1.0], "shares": [0.1, 0.2]}, "equally many"),
        ({"kind": "isotonic", "points": 1.0, "shares": [0.1]}, "equally many"),
        ({"kind": "isotonic", "points": [1.0], "shares": 0.1}, "equally many"),
        ({"kind": "isotonic", "points": [1.0, 1.0], "shares": [0.1, 0.2]}, "points must rise"),
        ({"kind": "isotonic", "points": [1.0, 2.0], "shares": [0.2, 0.1]}, "shares not fall"),
        ({"kind": "isotonic", "points": [math.nan], "shares": [0.1]}, r"points\[0\] must be"),
        ({"kind": "isotonic", "points": [0.0], "shares": [math.inf]}, r"shares\[0\] must be"),
        ({"kind": "linear", "weights": [], "biases": []}, "as many rows"),
        ({"kind": "linear", "weights": [[1.0]], "biases": []}, "as many rows"),
        ({"kind": "linear", "weights": [[1.0]], "biases": [1.0, 2.0]}, "as many rows"),
        ({"kind": "linear", "weights": [[1.0], [1.0]], "biases": [1.0, 2.0]}, "as many rows"),
        ({"kind": "linear", "weights": [1.0], "biases": [1.0]}, "as many rows"),
        ({"kind": "linear", "weights": 1.0, "biases": [1.0]}, "as many rows"),
        ({"kind": "linear", "weights": [[math.nan]], "biases": [1.0]}, r"\[0\]\[0\] must be"),
        ({"kind": "linear", "weights": [[1.0]], "biases": [math.nan]}, r"\[1\]\[0\] must be"),
    ],
)
def test_bad_json_is_refused(value: object, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        calibration_from_json(value)


def test_good_json_is_read() -> None:
    assert calibration_from_json(GOOD) == RangeCalibration("min-max", 0.0, 1.0)
    normal = {"kind": "z-score", "mean": 1, "std": 2.0}
    assert calibration_from_json(normal) == NormalCalibration("z-score", 1.0, 2.0)
