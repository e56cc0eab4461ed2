"""Fit everything that a patch needs on calibration images, and predict images held out from it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cnnsplitter.calibration import (
    CALIBRATIONS,
    METHODS,
    Calibration,
    LearnedCalibration,
    fit_calibration,
)
from cnnsplitter.data.images import class_ranks
from cnnsplitter.errors import DataError, SettingsError, require_known
from cnnsplitter.evaluation import count
from cnnsplitter.patches.combining import RULES, Joint, Observations, outputs_of
from cnnsplitter.patches.gate_choice import choose_gates
from cnnsplitter.patches.likelihood import fit_isotonic, fit_learned, fit_linear
from cnnsplitter.patches.operating_point import OBJECTIVES, best_shift

FOLDS = 5
AUTO = "auto"
CHOICES = (*CALIBRATIONS, AUTO)
"""The names of calibrations, and ``"auto"``, which takes one of two by held-out images."""
FLOOR = -0.01
"""The default floor: a class that the weak model never names must take a few images from others."""


@dataclass(frozen=True)
class Fitting:
    """How patches are fitted.

    Attributes:
        calibration: One of ``CHOICES``; ``"learned"`` is fitted by maximum likelihood.
            ``"auto"`` is ``"linear"`` for a single patch with which, on images held out from the
            fit, the F1 of its class is no lower and the accuracy on the others is higher than with
            ``"learned"``; else it is that.
        rule: One of ``RULES``; None for ``"replace"``, the paper's, with the paper's calibrations,
            and ``"renormalise"`` with all others.
        objective: One of ``OBJECTIVES``: what the bias of a learned calibration is set for after
            the fit.
        floor: The accuracy on the other classes may change by no less than this (a share, so that
            -0.01 allows a loss of one point) on the calibration images, see ``best_shift``. It
            bounds the bias of learned calibrations; others have none, so that for them only
            ``guard`` asks for it.
        gate: Share of the gain in F1 that a gate must keep on the calibration images; None for
            patches that are always run.
    """

    calibration: str = "learned"
    rule: str | None = None
    objective: str = "likelihood"
    floor: float = FLOOR
    gate: float | None = None

    def __post_init__(self) -> None:
        require_known("calibration", self.calibration, CHOICES)
        require_known("rule", self.joint_rule, RULES)
        require_known("objective", self.objective, OBJECTIVES)
        if self.objective != "likelihood" and not self.is_learned:
            raise SettingsError(
                f"calibration {self.calibration!r} has no bias to set for {self.objective!r}; "
                "use calibration 'learned'"
            )
        if not -1 <= self.floor <= 1:
            raise SettingsError(f"floor must lie between -1 and 1, not {self.floor}")
        if self.gate is not None and not 0 < self.gate <= 1:
            raise SettingsError(f"gate must be a share above 0 and up to 1, not {self.gate}")

    @property
    def is_learned(self) -> bool:
        """Whether the calibration has a bias to set."""
        return self.calibration in ("learned", "temperature")

    def of_patches(self, count: int) -> "Fitting":
        """Return how so many patches are fitted: several that share a layer could not be parted."""
        return replace(self, calibration="learned") if self.is_auto and count != 1 else self

    @property
    def is_auto(self) -> bool:
        """Whether held-out images decide between two calibrations."""
        return self.calibration == AUTO

    @property
    def joint_rule(self) -> str:
        """The rule, where None is filled in."""
        return self.rule or ("replace" if self.calibration in METHODS else "renormalise")


def fit(fitting: Fitting, seen: Observations) -> Joint:
    """Fit calibrations, then biases for the objective, then gates.

    The order of the patches does not matter.

    Raises:
        DataError: A patched class without an image, or scores that cannot be calibrated.
    """
    patches = range(len(seen.layout.patched))
    fitting = fitting.of_patches(len(patches))
    if fitting.is_auto:
        fitting = replace(fitting, calibration=_chosen(fitting, seen))
    gates = (None,) * len(patches)
    joint = Joint(_calibrations(fitting, seen), gates, fitting.joint_rule)
    by_column = sorted(patches, key=seen.layout.patched.__getitem__)
    if fitting.is_learned:
        for patch in by_column:
            shift = best_shift(fitting.objective, fitting.floor, joint, seen, patch)
            joint = _shifted(joint, patch, shift)
    if fitting.gate is None:
        return joint
    return replace(joint, gates=choose_gates(joint, seen, fitting.gate))


def folds_of(labels: Tensor, folds: int = FOLDS, seed: int = 0) -> Tensor:
    """Return the fold int64[n] of every image; each class is spread over all folds."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return class_ranks(labels, order) % folds


def held_out_outputs(fitting: Fitting, seen: Observations, folds: int = FOLDS) -> Tensor:
    """Return the outputs float64[n, N] for every image by a fit that has not seen it.

    Raises:
        DataError: A patched class with fewer than two images, or three for the paper's
            calibrations, which need two of them for a range.
    """
    fold = folds_of(seen.labels, folds)
    least, word = (3, "three") if fitting.calibration in METHODS else (2, "two")
    for column in seen.layout.patched:
        if int((seen.labels == column).sum()) < least:
            raise DataError(
                f"class {seen.layout.classes[column]!r} has fewer than {word} calibration images, "
                f"so that calibration {fitting.calibration!r} can hold none out; add some"
            )
    outputs = torch.empty(len(seen), seen.layout.size, dtype=torch.float64)
    for k in range(folds):
        here = fold == k
        if here.any():
            joint = fit(fitting, seen.take(~here))
            outputs[here] = outputs_of(joint, seen.take(here)).double()
    return outputs


def _chosen(fitting: Fitting, seen: Observations) -> str:
    """Return which calibration ``"auto"`` stands for, with a single patch."""
    ((column,), (target,)) = seen.layout.patched, seen.layout.targets
    if int((seen.labels == column).sum()) < 2:
        return "learned"
    found = {}
    for name in ("learned", "linear"):
        # Without the gate, whose threshold would blur which of the two gains more.
        outputs = held_out_outputs(replace(fitting, calibration=name, gate=None), seen)
        evaluation = count(seen.labels, outputs.argmax(1), seen.layout.classes)
        f1 = evaluation.f1[evaluation.index(target)].item()
        found[name] = (f1, evaluation.others_accuracy(target))
    (f1, other), (linear_f1, linear_other) = found["learned"], found["linear"]
    return "linear" if linear_f1 >= f1 and linear_other > other else "learned"


def _calibrations(fitting: Fitting, seen: Observations) -> tuple[Calibration, ...]:
    patches = range(len(seen.layout.patched))
    if fitting.is_learned and RULES[fitting.joint_rule].together:
        return fit_learned(fitting.calibration, seen)
    if fitting.is_learned:
        alone = (fit_learned(fitting.calibration, seen.only([patch])) for patch in patches)
        return tuple(calibration for (calibration,) in alone)
    if fitting.calibration == "linear":
        return (fit_linear(seen),) * len(patches)
    if fitting.calibration == "isotonic":
        return tuple(fit_isotonic(seen, patch) for patch in patches)
    return tuple(_named_rule(fitting, seen, patch) for patch in patches)


def _named_rule(fitting: Fitting, seen: Observations, patch: int) -> Calibration:
    column = seen.layout.patched[patch]
    # As published, the paper's rule does not clip; other rules need shares.
    clip = fitting.joint_rule != "replace"
    try:
        return fit_calibration(
            fitting.calibration, seen.scores[:, patch], seen.labels == column, clip=clip
        )
    except DataError as error:
        raise DataError(f"class {seen.layout.classes[column]!r}: {error}") from error


def _shifted(joint: Joint, patch: int, shift: float) -> Joint:
    calibrations = list(joint.calibrations)
    old = calibrations[patch]
    if isinstance(old, LearnedCalibration):
        calibrations[patch] = replace(old, bias=old.bias + shift)
    return replace(joint, calibrations=tuple(calibrations))
