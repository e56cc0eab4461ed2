"""Keep a patch only if images that it was not fitted on say that it helps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
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
    """

    target: str
    comparison: Comparison
    floor: float

    @property
    def f1(self) -> Interval:
        """The change of the F1 of the class."""
        return self.comparison.changes(self.target)["f1"]

    @property
    def other(self) -> Interval:
        """The change of the accuracy on the other classes."""
        return self.comparison.changes(self.target)["other"]

    @property
    def helps(self) -> bool:
        """Whether F1 surely rises and the other classes do not surely fall below the floor."""
        return self.f1.low > 0 and self.other.high >= self.floor

    def __str__(self) -> str:
        word = "helps" if self.helps else "is not shown to help"
        return (
            f"class {self.target!r}: the patch {word} on {len(self.comparison.labels)} held-out "
            f"images: F1 {_points(self.f1)}, other classes {_points(self.other)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return the verdict and its figures as plain JSON values."""
        (row,) = self.comparison.rows()
        return {**row, "helps": self.helps, "floor": self.floor, "chance": self.comparison.chance}


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
        kept.remove(min(poor, key=lambda i: (verdicts[targets[i]].f1.low, targets[i])))
    return Judgement(tuple(targets[i] for i in kept), verdicts)


def verdicts_of(fitting: Fitting, seen: Observations) -> list[Verdict]:
    """Judge each of several patches against the model that lacks only it."""
    count = len(seen.layout.patched)
    after = held_out_outputs(fitting, seen).argmax(1)
    verdicts = []
    for patch in range(count):
        others = [i for i in range(count) if i != patch]
        rest = seen.only(others)
        before = held_out_outputs(fitting, rest) if others else _weak_outputs(rest)
        target = seen.layout.targets[patch]
        comparison = Comparison(
            seen.layout.classes, (target,), seen.labels, before.argmax(1), after
        )
        verdicts.append(Verdict(target, comparison, fitting.floor))
    return verdicts


def _weak_outputs(seen: Observations) -> torch.Tensor:
    return seen.layout.spread(seen.logits, -torch.inf)


def _points(change: Interval) -> str:
    low, high = 100 * change.low, 100 * change.high
    return f"{100 * change.estimate:+.1f} points ({low:+.1f} to {high:+.1f})"
