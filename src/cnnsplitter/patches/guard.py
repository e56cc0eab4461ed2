"""Keep a patch only if images that it was not fitted on say that it helps."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError
from cnnsplitter.evaluation import Comparison
from cnnsplitter.intervals import Interval
from cnnsplitter.patches.combining import Observations
from cnnsplitter.patches.fitting import Fitting, held_out_outputs
from cnnsplitter.patches.patching import observe


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the calibration images say about one patch, each by a fit that has not seen it.

    Attributes:
        target: The patched class.
        comparison: The model without this patch against the model with it.
        floor: The least change of the accuracy on the other classes that is asked for.
        recalibrated: The weak model's own score of the class in place of the class module's,
            calibrated alike, against the model with the patch: part of a gain may come from the
            calibration alone. None where the weak model has no score of the class, or one that
            cannot be calibrated.
    """

    target: str
    comparison: Comparison
    floor: float
    recalibrated: Comparison | None = None

    @property
    def f1(self) -> Interval:
        """The change of the F1 of the class."""
        return self.comparison.changes(self.target)["f1"]

    @property
    def other(self) -> Interval:
        """The change of the accuracy on the other classes."""
        return self.comparison.changes(self.target)["other"]

    @property
    def beyond(self) -> Interval | None:
        """The change of the F1 that the calibration alone does not give."""
        return None if self.recalibrated is None else self.recalibrated.changes(self.target)["f1"]

    @property
    def improves(self) -> bool:
        """Whether F1 surely rises and the other classes do not surely fall below the floor."""
        return self.f1.low > 0 and self.other.high >= self.floor

    @property
    def helps(self) -> bool:
        """Whether it improves the weak model, and surely more than the calibration alone does."""
        return self.improves and (self.beyond is None or self.beyond.low > 0)

    @property
    def least(self) -> float:
        """The least gain in F1 that is shown, alone or beyond the calibration."""
        return min(self.f1.low, self.f1.low if self.beyond is None else self.beyond.low)

    def __str__(self) -> str:
        word = "helps" if self.helps else "is not shown to help"
        told = (
            f"class {self.target!r}: the patch {word} on {len(self.comparison.labels)} held-out "
            f"images: F1 {_points(self.f1)}, other classes {_points(self.other)}"
        )
        if self.beyond is None or (self.helps and self.beyond.estimate >= self.f1.estimate):
            return told
        return f"{told}; F1 {_points(self.beyond)} beyond the weak model's own score, fitted alike"

    def to_json(self) -> dict[str, Any]:
        """Return the verdict and its figures as plain JSON values."""
        (row,) = self.comparison.rows()
        facts = {"helps": self.helps, "floor": self.floor, "chance": self.comparison.chance}
        return {**row, **facts, "f1_beyond_calibration": self.beyond and asdict(self.beyond)}


@dataclass(frozen=True, eq=False)
class Judgement:
    """Which patches are worth having.

    Attributes:
        kept: The classes whose patches help, together. Where an added class is not among them, the
            data is to be relabelled to ``known_classes`` before patching.
        verdicts: The last verdict on each patch, by its class.
    """

    kept: tuple[str, ...]
    verdicts: Mapping[str, Verdict]


def judge(
    weak: Classifier,
    modules: Mapping[str, ClassModule],
    calibration: ImageSet,
    fitting: Fitting | None = None,
) -> Judgement:
    """Judge patches on the calibration images by cross-fitting; no test image is looked at.

    All patches are fitted together, and each is judged against the model without it. While one
    does not help, the worst is left out and the rest are judged anew.

    Args:
        weak: The weak model.
        modules: Class modules by the names of the classes that they are to score.
        calibration: Images of all classes.
        fitting: How patches are fitted.

    Raises:
        SettingsError: Classes that neither the weak model nor the images have.
        DataError: Images that do not fit, or fewer than two of a class to be patched, three for
            the paper's calibrations.
    """
    return judge_observed(fitting or Fitting(), observe(weak, modules, calibration))


def judge_observed(fitting: Fitting, seen: Observations) -> Judgement:
    """Judge patches like ``judge``, by what the models have said about the images."""
    targets = seen.layout.targets
    kept = list(range(len(targets)))
    verdicts: dict[str, Verdict] = {}
    while kept:
        found = verdicts_of(fitting, seen.only(kept))
        verdicts |= {verdict.target: verdict for verdict in found}
        poor = [i for i, verdict in zip(kept, found, strict=True) if not verdict.helps]
        if not poor:
            break
        kept.remove(min(poor, key=lambda i: (verdicts[targets[i]].least, targets[i])))
    return Judgement(tuple(targets[i] for i in kept), verdicts)


def verdicts_of(fitting: Fitting, seen: Observations) -> list[Verdict]:
    """Judge each of several patches against the model that lacks only it."""
    count = len(seen.layout.patched)
    # What is left without one of two patches is fitted as the two are.
    fitting = fitting.of_patches(count)
    after = held_out_outputs(fitting, seen).argmax(1)
    return [_verdict(fitting, seen, patch, after) for patch in range(count)]


def _verdict(fitting: Fitting, seen: Observations, patch: int, after: Tensor) -> Verdict:
    rest = seen.only([i for i in range(len(seen.layout.patched)) if i != patch])
    before = held_out_outputs(fitting, rest) if rest.layout.patched else _weak_outputs(rest)
    classes, target = seen.layout.classes, seen.layout.targets[patch]
    comparison = Comparison(classes, (target,), seen.labels, before.argmax(1), after)
    own = _own_outputs(fitting, seen, patch)
    recalibrated = own if own is None else replace(comparison, predicted_before=own.argmax(1))
    return Verdict(target, comparison, fitting.floor, recalibrated)


def _own_outputs(fitting: Fitting, seen: Observations, patch: int) -> Tensor | None:
    """Return the outputs with the weak model as the class module of a patch."""
    known = seen.layout.known(patch)
    if known is None:
        return None
    scores = seen.scores.clone()
    scores[:, patch] = seen.logits[:, known]
    try:
        return held_out_outputs(fitting, replace(seen, scores=scores))
    except DataError:
        return None  # Of a score without a spread, calibration makes nothing.


def _weak_outputs(seen: Observations) -> Tensor:
    return seen.layout.spread(seen.logits, -torch.inf)


def _points(change: Interval) -> str:
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.estimate:+.1f} points ({low:+.1f} to {high:+.1f})"
