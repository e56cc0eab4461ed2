"""What a weak model is poor at, what it takes for what, and which class modules would help."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.evaluation import Evaluation, count, evaluate
from cnnsplitter.inference import predict
from cnnsplitter.intervals import Interval
from cnnsplitter.patches.combining import Layout
from cnnsplitter.patches.fitting import Fitting
from cnnsplitter.patches.guard import Verdict, judge
from cnnsplitter.patches.patching import PatchedModel, known_classes

_CONFUSIONS = 3


@dataclass(frozen=True)
class ClassFinding:
    """What the images say about one class of a model.

    Attributes:
        name: The class.
        images: How many images of it there are.
        precision: With interval, like the next two.
        recall: Share of its images that are found.
        f1: Their harmonic mean.
        missed: What its images are taken for instead, with the numbers; most first.
        alarms: What is taken for it, likewise.
        is_poor: Whether its F1 is surely below the model's mean F1.
    """

    name: str
    images: int
    precision: Interval
    recall: Interval
    f1: Interval
    missed: tuple[tuple[str, int], ...]
    alarms: tuple[tuple[str, int], ...]
    is_poor: bool

    @property
    def gain(self) -> float:
        """What a perfect patch would add to its F1; no patch can add more."""
        return 1 - self.f1.estimate

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON values."""
        figures = {name: vars(getattr(self, name)) for name in ("precision", "recall", "f1")}
        return {
            "class": self.name,
            "images": self.images,
            **figures,
            "missed": dict(self.missed),
            "alarms": dict(self.alarms),
            "is_poor": self.is_poor,
            "largest_gain": self.gain,
        }


def diagnose(weak: Classifier | PatchedModel, data: ImageSet) -> tuple[ClassFinding, ...]:
    """Find the classes that a model is poor at, the poorest first.

    Args:
        weak: The model; classes of the data that it lacks are found never.
        data: Images that it was not trained on; not the test images that a patch is to be
            reported on, because classes that are picked for their poor figures look poorer there
            than they are.

    Raises:
        DataError: No images, or of other classes.
    """
    evaluation = _evaluated(weak, data)
    mean = evaluation.f1.mean().item()
    found = [_finding(evaluation, name, mean) for name in evaluation.classes]
    return tuple(sorted(found, key=lambda finding: finding.f1.estimate))


def try_modules(
    weak: Classifier,
    modules: Mapping[str, ClassModule],
    data: Splits,
    fitting: Fitting | None = None,
    *,
    known: Mapping[str, ClassModule] | None = None,
) -> tuple[list[Verdict], dict[str, str]]:
    """Judge each class module alone on held-out calibration images.

    Args:
        weak: The weak model.
        modules: Class modules by the names of the classes that they are to score.
        data: The weak model's data.
        fitting: How patches are fitted.
        known: Likewise the class modules that the weak model has already; they are fitted anew
            with each that is tried.

    Returns:
        The verdicts, the most helpful first, and by class why others could not be tried.
    """
    verdicts, refused = [], {}
    for target, module in modules.items():
        try:
            tried = {**(known or {}), target: module}
            images = data.calibration.relabel(known_classes(weak, tried, data.classes))
            judgement = judge(weak, tried, images, fitting)
            verdicts.append(judgement.verdicts[target])
        except CnnSplitterError as error:
            refused[target] = str(error)
    return sorted(verdicts, key=lambda verdict: -verdict.f1.low), refused


def _evaluated(weak: Classifier | PatchedModel, data: ImageSet) -> Evaluation:
    if not set(weak.classes) < set(data.classes) or not len(data):
        return evaluate(weak, data)
    layout = Layout.of(data.classes, weak.classes, ())
    predicted = layout.spread(predict(weak, data), -torch.inf).argmax(1)
    return count(data.labels, predicted, data.classes)


def _finding(evaluation: Evaluation, name: str, mean: float) -> ClassFinding:
    figures = evaluation.intervals(name)
    index = evaluation.index(name)
    return ClassFinding(
        name,
        evaluation.count(name),
        figures["precision"],
        figures["recall"],
        figures["f1"],
        _most(evaluation, evaluation.confusion[index].tolist(), index),
        _most(evaluation, evaluation.confusion[:, index].tolist(), index),
        figures["f1"].high < mean,
    )


def _most(evaluation: Evaluation, counts: list[int], own: int) -> tuple[tuple[str, int], ...]:
    pairs = zip(evaluation.classes, counts, strict=True)
    found = [pair for i, pair in enumerate(pairs) if i != own and pair[1]]
    return tuple(sorted(found, key=lambda pair: -pair[1])[:_CONFUSIONS])
