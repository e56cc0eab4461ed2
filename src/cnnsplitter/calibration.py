"""Rules that turn a class module's raw score into a share of certainty; all but one keep its order.

The paper's named rules are fitted on the scores that the class module gives to calibration images
of its own class; ``likelihood`` fits the learned ones on the calibration images of all classes.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from cnnsplitter.errors import DataError, SettingsError, StorageError, require_known


@dataclass(frozen=True)
class Calibration(ABC):
    """A map from raw scores to calibrated scores, monotone but for ``LinearCalibration``.

    Attributes:
        kind: The rule that it was fitted by, one of ``CALIBRATIONS``.
    """

    kind: str

    @abstractmethod
    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to calibrated scores of the same shape, dtype and device.

        Args:
            scores: Raw scores of the class module.
            weak: float[..., 2], the weak model's log p of the same class and log q of what it is
                held against, which only ``LearnedCalibration`` uses; None where the weak model
                lacks the class.
        """

    def log_odds(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores to the log-odds of the class; those of scores of 0 and 1 are finite."""
        return self(scores, weak).logit(eps=1e-6)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as plain JSON values; ``calibration_from_json`` reads them."""
        return asdict(self)


@dataclass(frozen=True)
class RangeCalibration(Calibration):
    """``(score - low) / (high - low)``: min-max and its two robust variants.

    Attributes:
        low: The raw score that becomes 0.
        high: The raw score that becomes 1; above ``low``.
        clip: Whether scores outside the range are set to 0 or 1; the paper leaves them outside.
    """

    low: float
    high: float
    clip: bool = True

    def __post_init__(self) -> None:
        _require_finite(self.kind, low=self.low, high=self.high)
        if not isinstance(self.clip, bool):
            raise SettingsError(
                f"calibration {self.kind!r}: clip is true or false, not {self.clip!r}"
            )
        if not self.low < self.high:
            raise SettingsError(
                f"calibration {self.kind!r}: low ({self.low}) must be below high ({self.high})"
            )

    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to shares of the range."""
        shares = (scores - self.low) / (self.high - self.low)
        return shares.clamp(0, 1) if self.clip else shares


@dataclass(frozen=True)
class NormalCalibration(Calibration):
    """``Phi((score - mean) / std)``: the z-score, brought to (0, 1) by the normal distribution.

    A score of 0.5 is that of an average image of the class. The distribution function keeps the
    order of the z-scores and makes them comparable with probabilities.

    Attributes:
        mean: Mean of the raw scores of the class.
        std: Their standard deviation; positive.
    """

    mean: float
    std: float

    def __post_init__(self) -> None:
        _require_finite(self.kind, mean=self.mean, std=self.std)
        if not self.std > 0:
            raise SettingsError(f"calibration {self.kind!r}: std must be positive, not {self.std}")

    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to (0, 1)."""
        shares: Tensor = torch.special.ndtr((scores - self.mean) / self.std)
        return shares


@dataclass(frozen=True)
class LearnedCalibration(Calibration):
    """Log-odds of the class, ``scale * score + bias + own * log p - rest * log q``.

    p is the weak model's probability of the class and q that of all classes that are not patched:
    1 - p for a single patch. With scale and bias 0, own and rest 1, it is the weak model's own
    opinion; with own and rest 0 it is that of the class module alone.

    Attributes:
        scale: Weight of the class module's score; not negative.
        bias: Log-odds where all else is 0.
        own: Weight of what the weak model has for the class; not negative.
        rest: Weight of what it has against the class; not negative.
    """

    scale: float
    bias: float
    own: float
    rest: float

    def __post_init__(self) -> None:
        weights = {"scale": self.scale, "own": self.own, "rest": self.rest}
        _require_finite(self.kind, bias=self.bias, **weights)
        for name, value in weights.items():
            if value < 0:
                raise SettingsError(
                    f"calibration {self.kind!r}: {name} must not be negative, but is {value}"
                )

    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to the probability of the class."""
        return self.log_odds(scores, weak).sigmoid()

    def log_odds(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to the log-odds of the class."""
        odds = self.scale * scores + self.bias
        if weak is None:
            return odds
        return odds + self.own * weak[..., 0] - self.rest * weak[..., 1]


@dataclass(frozen=True)
class IsotonicCalibration(Calibration):
    """A rising line through points, constant beyond the first and the last.

    Attributes:
        points: Raw scores, rising.
        shares: The share of certainty at each, never falling.
    """

    points: tuple[float, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        lists = isinstance(self.points, tuple) and isinstance(self.shares, tuple)
        if not lists or not self.points or len(self.points) != len(self.shares):
            raise SettingsError(
                f"calibration {self.kind!r}: points and shares must be equally many, at least one"
            )
        for number, (point, share) in enumerate(zip(self.points, self.shares, strict=True)):
            _require_finite(self.kind, **{f"points[{number}]": point, f"shares[{number}]": share})
        points, shares = list(self.points), list(self.shares)
        if points != sorted(set(points)) or shares != sorted(shares):
            raise SettingsError(f"calibration {self.kind!r}: points must rise, shares not fall")

    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map raw scores float[...] to shares."""
        points, shares = (
            torch.tensor(values, dtype=torch.float64, device=scores.device)
            for values in (self.points, self.shares)
        )
        # A sum of ramps, because every exporter knows it.
        steps = points.diff()
        ramps = (scores[..., None].double() - points[:-1]).clamp(min=0).minimum(steps) / steps
        return (self.shares[0] + (ramps * shares.diff()).sum(-1)).to(scores.dtype)


@dataclass(frozen=True)
class LinearCalibration(Calibration):
    """One linear layer over the scores of all classes, the published learned calibration.

    The weak model's logits, with the class modules' scores in the places of the patched classes,
    become new logits of all classes (MODA, arXiv 2411.01074). Unlike other calibrations it also
    changes how classes that are not patched are told apart; patches of one model share it.

    Attributes:
        weights: N rows of N; row i gives the logit of class i.
        biases: One per class.
    """

    weights: tuple[tuple[float, ...], ...]
    biases: tuple[float, ...]

    def __post_init__(self) -> None:
        rows = (self.biases, self.weights, *(self.weights if _is_row(self.weights) else ()))
        if not all(_is_row(row) and len(row) == len(self.biases) for row in rows):
            raise SettingsError(
                f"calibration {self.kind!r}: weights must be as many rows of as many numbers as "
                "there are biases"
            )
        for number, row in enumerate((*self.weights, self.biases)):
            for column, value in enumerate(row):
                _require_finite(self.kind, **{f"weights and biases [{number}][{column}]": value})

    def __call__(self, scores: Tensor, weak: Tensor | None = None) -> Tensor:
        """Map the scores of all classes float[..., N] to logits float[..., N]."""
        weights, biases = (
            torch.tensor(values, dtype=scores.dtype, device=scores.device)
            for values in (self.weights, self.biases)
        )
        return scores @ weights.T + biases


def fit_calibration(
    method: str, scores: Tensor, is_target: Tensor, *, clip: bool = True
) -> Calibration:
    """Fit the named rule on the scores of the target class (method.md, section 2 step 6).

    Args:
        method: One of ``METHODS``.
        scores: Raw scores float[n] of the class module on the calibration images.
        is_target: bool[n], which of the images show the target class.
        clip: Whether range rules keep their result in [0, 1]; False is the published choice.

    Raises:
        SettingsError: The rule is unknown.
        DataError: No image of the target class, scores that are all alike, or NaN scores.
    """
    require_known("calibration", method, METHODS)
    target = _target_scores(scores, is_target)
    if method == "z-score":
        mean, std = target.mean().item(), target.std(correction=0).item()
        _require_spread(method, target, std)
        return NormalCalibration(method, mean, std)
    low, high = _RANGES[method](target)
    _require_spread(method, target, high - low)
    return RangeCalibration(method, low, high, clip)


def calibration_from_json(value: object) -> Calibration:
    """Read what ``Calibration.to_json`` wrote.

    Raises:
        StorageError: An unknown kind, missing or unknown keys, or numbers that are not finite.
    """
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(kind, str) or kind not in _KINDS:
        raise StorageError(
            f"a calibration needs a 'kind' out of {', '.join(CALIBRATIONS)}, got {kind!r}; "
            "save it anew"
        )
    keys = {field.name for field in fields(_KINDS[kind])}
    if set(value) != keys:
        raise StorageError(
            f"calibration {kind!r} needs the keys {sorted(keys)}, got {sorted(map(str, value))}"
        )
    try:
        return _KINDS[kind](**{key: _as_tuples(each) for key, each in value.items()})
    except SettingsError as error:
        raise StorageError(f"{error}; the file is damaged, save it anew") from error


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _is_row(value: object) -> bool:
    return isinstance(value, tuple) and len(value) > 0


def _target_scores(scores: Tensor, is_target: Tensor) -> Tensor:
    if scores.ndim != 1 or is_target.shape != scores.shape or is_target.dtype != torch.bool:
        raise DataError(
            "calibration needs scores float[n] and is_target bool[n], got "
            f"{tuple(scores.shape)} and {is_target.dtype} {tuple(is_target.shape)}"
        )
    if not scores.isfinite().all():
        raise DataError("calibration scores hold NaN or infinite values; check the class module")
    target = scores.detach().double()[is_target]
    if not len(target):
        raise DataError(
            "no calibration image of the target class; add some to the calibration split"
        )
    return target


def _require_spread(method: str, target: Tensor, spread: float) -> None:
    # Narrower than the smallest normal float32, a division by it overflows.
    if spread < torch.finfo(torch.float32).tiny:
        raise DataError(
            f"{method} calibration finds no spread in the {len(target)} scores of the target class "
            f"(about {target.median().item():g}); use more calibration images, another calibration "
            "or another class module"
        )


def _require_finite(kind: str, **values: object) -> None:
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) <= sys.float_info.max:  # type: ignore[arg-type]
            raise SettingsError(
                f"calibration {kind!r}: {name} must be a finite number, not {value!r}"
            )


def _min_max(target: Tensor) -> tuple[float, float]:
    return target.min().item(), target.max().item()


def _percentile(target: Tensor) -> tuple[float, float]:
    return target.quantile(0.05).item(), target.quantile(0.95).item()


def _without_outliers(target: Tensor) -> tuple[float, float]:
    first, third = target.quantile(0.25).item(), target.quantile(0.75).item()
    reach = 1.5 * (third - first)
    return _min_max(target[(target >= first - reach) & (target <= third + reach)])


_RANGES: Mapping[str, Callable[[Tensor], tuple[float, float]]] = {
    "min-max": _min_max,
    "percentile": _percentile,
    "outlier": _without_outliers,
}
_KINDS: Mapping[str, type[Calibration]] = {
    "learned": LearnedCalibration,
    "temperature": LearnedCalibration,
    "isotonic": IsotonicCalibration,
    "linear": LinearCalibration,
    **dict.fromkeys(_RANGES, RangeCalibration),
    "z-score": NormalCalibration,
}
METHODS = (*_RANGES, "z-score")
"""The names of the paper's calibration rules."""
CALIBRATIONS = tuple(_KINDS)
"""The names of all calibrations; ``likelihood`` fits those that are not in ``METHODS``."""
