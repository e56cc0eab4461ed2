"""What the patch experiments share: one weak model, its patches and baselines, one row for each."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cnnsplitter.calibration import LearnedCalibration
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import Cost, measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.evaluation import Evaluation, classify, count
from cnnsplitter.inference import predict
from cnnsplitter.patches.baselines import fine_tune, retrain_last_layer
from cnnsplitter.patches.combining import Layout, Observations, opened, outputs_of
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.guard import verdicts_of
from cnnsplitter.results import Row
from experiments.score_cache import ScoreCache

Value = str | int | float | bool | None
FITTINGS = {
    "min-max": Fitting("min-max"),
    "linear": Fitting("linear"),
    "learned": Fitting("learned"),
    "learned-gated": Fitting("learned", gate=0.95),
}
"""Method to how its patches are fitted."""


@dataclass(frozen=True, eq=False)
class Case:
    """A weak model that is to be patched at one class.

    Attributes:
        weak: The weak model.
        target: The class.
        data: The weak model's data; test images may be of any balance.
        modules: Name of a patch (class-module, whole-strong, random) to its class module; the whole
            strong model is always there.
        images_per_class: What every class of the test images is weighted to; None for no weights.
        facts: What every row repeats.
        cache: Where the scores of class modules are kept.
    """

    weak: Classifier
    target: str
    data: Splits
    modules: Mapping[str, ClassModule]
    images_per_class: int | None
    facts: Mapping[str, str | int | float]
    cache: ScoreCache = field(default_factory=ScoreCache)

    def rows(self, done: Container[str] = ()) -> Iterator[Row]:
        """Yield one row per patch and method, then one per baseline that retrains.

        Args:
            done: Names of patches that are left out, with ``"none"`` for the baselines.
        """
        before = classify(self.weak, self.data.test)
        for name, module in self.modules.items():
            if name not in done:
                yield from self._patches(name, module, before)
        if "none" not in done:
            yield from self._retrained(before)

    def _retrained(self, before: Tensor) -> Iterator[Row]:
        retrained = {
            "last-layer": retrain_last_layer(self.weak, self.data.calibration),
            "fine-tune": fine_tune(self.weak, self.data, seed=0),
        }
        for method, model in retrained.items():
            after = classify(model, self.data.test)
            cost = _macs(self.weak)
            yield self._row(method, "none", before, after) | {
                "macs_weak": cost,
                "macs_patch": 0,
                "macs_mean": cost,
            }

    def _patches(self, name: str, module: ClassModule, before: Tensor) -> Iterator[Row]:
        seen, test = (
            self._observed(module, part) for part in (self.data.calibration, self.data.test)
        )
        weak, patch = _macs(self.weak), _macs(module)
        kept = _cost(module).kernels / _cost(self.modules["whole-strong"]).kernels
        for method, fitting in FITTINGS.items():
            joint = fit(fitting, seen)
            after = outputs_of(joint, test).argmax(1)
            share = self._share(opened(joint, test.logits, test.layout)[:, 0])
            (calibration,) = joint.calibrations
            yield {
                **self._row(method, name, before, after),
                **_judged(fitting, seen),
                "kept_kernels": kept,
                "run_share": share,
                "macs_weak": weak,
                "macs_patch": patch,
                "macs_mean": round(weak + share * patch),
                "gate": _gate(joint.gates[0]),
                **(_weights(calibration) if isinstance(calibration, LearnedCalibration) else {}),
            }

    def _observed(self, module: ClassModule, images: ImageSet) -> Observations:
        return Observations(
            predict(self.weak, images).detach().double(),
            self.cache.scores(module, images)[:, None],
            images.labels,
            Layout.of(images.classes, self.weak.classes, (self.target,)),
        )

    def _row(self, method: str, patch: str, before: Tensor, after: Tensor) -> dict[str, Value]:
        labels, classes = self.data.test.labels, self.data.classes
        index = classes.index(self.target)
        row: dict[str, Value] = {**self.facts, "target": self.target, "method": method}
        row |= {"patch": patch, "n_target": int((labels == index).sum())}
        row["n_other"] = len(labels) - int((labels == index).sum())
        stages = {"before": before, "after": after}
        found = {stage: self._weighted(count(labels, p, classes)) for stage, p in stages.items()}
        for figure in ("precision", "recall", "f1"):
            for stage, evaluation in found.items():
                row[f"{figure}_{stage}"] = getattr(evaluation, figure)[index].item()
        for stage, evaluation in found.items():
            row[f"other_{stage}"] = evaluation.others_accuracy(self.target)
        right = {stage: predicted == labels for stage, predicted in stages.items()}
        row["right_to_wrong"] = int((right["before"] & ~right["after"]).sum())
        row["wrong_to_right"] = int((~right["before"] & right["after"]).sum())
        return row

    def _share(self, open_: Tensor) -> float:
        """Return the share of the test images that the class module runs on, weighted likewise."""
        labels = self.data.test.labels
        weights = torch.ones(len(labels), dtype=torch.float64)
        if self.images_per_class is not None:
            weights /= self.data.test.counts()[labels]
        return ((weights * open_).sum() / weights.sum()).item()

    def _weighted(self, evaluation: Evaluation) -> Evaluation:
        if self.images_per_class is None:
            return evaluation
        return evaluation.weighted(self.images_per_class)


def _judged(fitting: Fitting, seen: Observations) -> dict[str, bool | float]:
    """Return what held-out calibration images say, by which settings are chosen."""
    (verdict,) = verdicts_of(fitting, seen)
    return {
        "guard_helps": verdict.improves,
        "held_out_f1_change": verdict.f1.estimate,
        "held_out_other_change": verdict.other.estimate,
    }


def _weights(found: LearnedCalibration) -> dict[str, float]:
    return {name: getattr(found, name) for name in ("scale", "bias", "own", "rest")}


def _gate(gate: object) -> str | None:
    return None if gate is None else str(gate)


def _macs(model: nn.Module) -> int:
    return _cost(model).multiply_adds


def _cost(model: nn.Module) -> Cost:
    shape: tuple[int, int, int] = model.input_shape  # type: ignore[assignment]
    with torch.no_grad():
        return measure_cost(model, shape)
