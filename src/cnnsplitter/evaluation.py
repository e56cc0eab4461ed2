"""How good a model is, class by class, and what a change such as a patch did to it."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, ModelError, require_known
from cnnsplitter.inference import predict
from cnnsplitter.intervals import (
    COVERAGE,
    Interval,
    f1_interval,
    mcnemar,
    paired_changes,
    share_interval,
)
from cnnsplitter.summaries import Summarised, Summary


@runtime_checkable
class Patched(Protocol):
    """A model that tells which of its classes were changed."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The changed classes."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predictions counted by class.

    Attributes:
        confusion: int64[N, N], samples by true class (rows) and predicted class (columns); if
            they are weighted float64.
        classes: The N class names.
    """

    confusion: Tensor
    classes: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """Share of the samples that are right; 0 without samples."""
        return _share(self.confusion.diagonal().sum(), self.confusion.sum()).item()

    @property
    def precision(self) -> Tensor:
        """float64[N]: share of a class's predictions that are right; 0 if it is never predicted."""
        return _share(self.confusion.diagonal(), self.confusion.sum(0))

    @property
    def recall(self) -> Tensor:
        """float64[N]: share of a class's samples that are right; 0 if it has none."""
        return _share(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def f1(self) -> Tensor:
        """float64[N]: harmonic mean of precision and recall; 0 if both are 0 or undefined."""
        return _share(2 * self.confusion.diagonal(), self.confusion.sum(0) + self.confusion.sum(1))

    def index(self, name: str) -> int:
        """Return the row and column of a class; ``SettingsError`` if it is unknown."""
        require_known("class", name, self.classes)
        return self.classes.index(name)

    def count(self, target: str) -> int:
        """Return the number of samples of class ``target``."""
        return int(self.confusion[self.index(target)].sum())

    def others_accuracy(self, target: str) -> float:
        """Return the accuracy over the samples whose true class is not ``target``."""
        rows = torch.arange(len(self.classes)) != self.index(target)
        return _share(self.confusion.diagonal()[rows].sum(), self.confusion[rows].sum()).item()

    def weighted(self, images: float) -> "Evaluation":
        """Return the figures that there would be with ``images`` images of every class."""
        counts = self.confusion.sum(1, keepdim=True).clamp(min=1)
        return Evaluation(self.confusion.double() * images / counts, self.classes)

    def intervals(self, target: str) -> dict[str, Interval]:
        """Return ``precision``, ``recall``, ``f1`` and ``other`` of a class with their intervals.

        ``other`` is ``others_accuracy``; see ``intervals`` for their coverage.
        """
        index = self.index(target)
        hits = self.confusion[index, index].item()
        predicted, actual = self.confusion.sum(0)[index].item(), self.confusion.sum(1)[index].item()
        right = self.confusion.diagonal().sum().item() - hits
        return {
            "precision": share_interval(hits, predicted),
            "recall": share_interval(hits, actual),
            "f1": f1_interval(hits, predicted, actual),
            "other": share_interval(right, self.confusion.sum().item() - actual),
        }

    def to_json(self) -> dict[str, Any]:
        """Return all figures as plain JSON values."""
        return {
            "classes": list(self.classes),
            "confusion": self.confusion.tolist(),
            "accuracy": self.accuracy,
            "precision": self.precision.tolist(),
            "recall": self.recall.tolist(),
            "f1": self.f1.tolist(),
            "coverage": COVERAGE,
            "intervals": {
                name: {figure: asdict(value) for figure, value in self.intervals(name).items()}
                for name in self.classes
            },
        }


@dataclass(frozen=True, eq=False)
class Comparison(Summarised):
    """Two models' predictions for the same samples.

    Attributes:
        classes: The N class names.
        targets: The classes that the change was meant for.
        labels: int64[n], the true classes.
        predicted_before: int64[n].
        predicted_after: int64[n].
    """

    classes: tuple[str, ...]
    targets: tuple[str, ...]
    labels: Tensor
    predicted_before: Tensor
    predicted_after: Tensor

    @cached_property
    def before(self) -> Evaluation:
        """The first model's evaluation."""
        return count(self.labels, self.predicted_before, self.classes)

    @cached_property
    def after(self) -> Evaluation:
        """The second model's evaluation."""
        return count(self.labels, self.predicted_after, self.classes)

    @property
    def right_to_wrong(self) -> Tensor:
        """int64[k], positions of the samples that only the first model gets right."""
        return self._flips(self.predicted_before, self.predicted_after)

    @property
    def wrong_to_right(self) -> Tensor:
        """int64[k], positions of the samples that only the second model gets right."""
        return self._flips(self.predicted_after, self.predicted_before)

    def changes(self, target: str) -> dict[str, Interval]:
        """Return by how much each figure of a class changed, with a paired interval."""
        index = self.before.index(target)
        return dict(paired_changes(self.labels, self.predicted_before, self.predicted_after, index))

    @property
    def chance(self) -> float:
        """How likely flips as one-sided as these are by chance (McNemar's exact test)."""
        return mcnemar(len(self.right_to_wrong), len(self.wrong_to_right))

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one flat row per target class; all shares are between 0 and 1.

        Beside each figure stand the ends of its interval (``..._low``, ``..._high``), and of its
        change; ``lost`` and ``won`` count the images of the class, ``lost_other`` and
        ``won_other`` those of the others that became wrong and right.
        """
        return [self._row(target) for target in self.targets]

    def summary(self) -> Summary:
        """Return what changed for every target class, in per cent and points with intervals."""
        lost, won = len(self.right_to_wrong), len(self.wrong_to_right)
        return Summary(
            f"Before and after, on {len(self.labels):,} images",
            [line for target in self.targets for line in self._lines(target)],
            f"{won} images became right, {lost} became wrong (one-sided by chance: "
            f"p = {self.chance:.2g}). Brackets hold the true change with {COVERAGE:.0%}.",
        )

    def _lines(self, target: str) -> list[dict[str, str]]:
        before, after = self.before.intervals(target), self.after.intervals(target)
        return [
            {
                "class": f"not {target}" if name == "other" else target,
                "figure": "accuracy" if name == "other" else name,
                "before": f"{100 * before[name].estimate:.1f} %",
                "after": f"{100 * after[name].estimate:.1f} %",
                "points": f"{100 * change.estimate:+.1f} "
                f"({100 * change.low:+.1f} to {100 * change.high:+.1f})",
            }
            for name, change in self.changes(target).items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all figures and the positions of the flipped samples as plain JSON values."""
        return {
            "targets": list(self.targets),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "right_to_wrong": self.right_to_wrong.tolist(),
            "wrong_to_right": self.wrong_to_right.tolist(),
            "chance": self.chance,
            "coverage": COVERAGE,
            "rows": self.rows(),
        }

    def _flips(self, right: Tensor, wrong: Tensor) -> Tensor:
        return ((right == self.labels) & (wrong != self.labels)).nonzero().flatten()

    def _row(self, target: str) -> dict[str, str | int | float]:
        index = self.before.index(target)
        n_target = self.before.count(target)
        row: dict[str, str | int | float] = {
            "target": target,
            "n_target": n_target,
            "n_other": len(self.labels) - n_target,
        }
        stages = {"before": self.before, "after": self.after}
        figures = {stage: found.intervals(target) for stage, found in stages.items()}
        for name, change in self.changes(target).items():
            for stage in stages:
                row |= _flat(f"{name}_{stage}", figures[stage][name])
            row |= _flat(f"{name}_change", change)
        is_target = self.labels == index
        for word, flips in (("lost", self.right_to_wrong), ("won", self.wrong_to_right)):
            inside = int(is_target[flips].sum())
            row |= {word: inside, f"{word}_other": len(flips) - inside}
        return row


def _flat(name: str, value: Interval) -> dict[str, float]:
    return {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}


def evaluate(model: nn.Module, data: ImageSet) -> Evaluation:
    """Count the predictions of ``model`` (the argmax of its outputs) for all images of ``data``.

    Raises:
        DataError: No images, or classes that are not the model's.
        ModelError: NaN outputs.
    """
    return count(data.labels, classify(model, data), data.classes)


def compare(
    before: nn.Module,
    after: nn.Module,
    data: ImageSet,
    targets: Iterable[str] | None = None,
) -> Comparison:
    """Compare two models of the same classes on the same images.

    Args:
        before: The first model, such as the weak one.
        after: The second model, such as the patched one.
        data: Test images.
        targets: The classes to report; by default the patched ones if ``after`` is a patched
            model, else all.

    Raises:
        SettingsError: A target that is not a class of ``data``.
        DataError: No images, or classes that are not the models'.
        ModelError: NaN outputs.
    """
    if targets is None:
        targets = after.targets if isinstance(after, Patched) else data.classes
    targets = tuple(targets)
    # Data that lack classes of the models are the cause where a target is missing, too.
    for model in (before, after):
        _require_fit(model, data)
    for target in targets:
        require_known("class", target, data.classes)
    return Comparison(
        data.classes, targets, data.labels, classify(before, data), classify(after, data)
    )


def classify(model: nn.Module, data: ImageSet) -> Tensor:
    """Return the predicted class of every image, int64[n]; errors as for ``evaluate``."""
    _require_fit(model, data)
    outputs = predict(model, data)
    if outputs.shape != (len(data), len(data.classes)):
        raise DataError(
            f"the model gives outputs of shape {tuple(outputs.shape[1:])} but {data.images.name} "
            f"has {len(data.classes)} classes; use a model with one output per class"
        )
    if outputs.isnan().any():
        raise ModelError("the model gives NaN outputs; check its weights and its input")
    return outputs.argmax(dim=1)


def _require_fit(model: nn.Module, data: ImageSet) -> None:
    if not len(data):
        raise DataError(f"{data.images.name} holds no image of these classes; nothing to evaluate")
    classes = getattr(model, "classes", data.classes)
    if tuple(classes) != tuple(data.classes):
        raise DataError(
            f"the model has the classes ({', '.join(classes)}) but {data.images.name} "
            f"({', '.join(data.classes)}); relabel the data to the model's classes"
        )
    shape = getattr(model, "input_shape", data.images.shape)
    if tuple(shape) != tuple(data.images.shape):
        raise DataError(
            f"the model takes images of shape {tuple(shape)} but {data.images.name} holds "
            f"{tuple(data.images.shape)}; use images of the model's shape"
        )


def count(labels: Tensor, predicted: Tensor, classes: tuple[str, ...]) -> Evaluation:
    """Count int64[n] true and predicted classes."""
    n = len(classes)
    pairs = labels.long() * n + predicted.long()
    return Evaluation(torch.bincount(pairs, minlength=n * n).view(n, n), classes)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part.double() / torch.where(whole > 0, whole, 1), 0.0)
