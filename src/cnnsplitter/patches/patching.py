"""Patching a weak model: class modules of a strong model score the classes that it is poor at."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnsplitter.calibration import Calibration
from cnnsplitter.class_modules import ClassModule, require_same_shape
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import DataError, SettingsError, require_known
from cnnsplitter.inference import predict
from cnnsplitter.patches.combining import RULES, Joint, Layout, Observations, combine, opened
from cnnsplitter.patches.fitting import FLOOR, Fitting, fit
from cnnsplitter.patches.gating import Gate, doubts_for
from cnnsplitter.summaries import Summarised, Summary

__all__ = ["RULES", "Patch", "PatchedModel", "known_classes", "observe", "patch", "require_classes"]


@dataclass(frozen=True, eq=False)
class Patch:
    """A class module attached to a weak model.

    Attributes:
        target: The class it scores, by its name in the weak model.
        module: The class module; the class may have another name in its strong model.
        calibration: Makes its score comparable with the weak model's probabilities.
        gate: Where it is run; None for everywhere.
    """

    target: str
    module: ClassModule
    calibration: Calibration
    gate: Gate | None = None


class PatchedModel(Summarised, nn.Module):
    """A weak model with patches. Everything in it is put in eval mode.

    Attributes:
        weak: The weak model.
        classes: The N class names: those of the weak model and those that patches add.
        targets: The patched classes.
        joint: How the patches are brought together with the weak model.
        layout: Where the classes stand.
    """

    def __init__(
        self,
        weak: Classifier,
        patches: Iterable[Patch],
        rule: str = "replace",
        classes: Iterable[str] | None = None,
    ) -> None:
        """Attach patches.

        Args:
            weak: The weak model.
            patches: In any order, which changes nothing.
            rule: One of ``RULES``.
            classes: The order of all classes; by default the weak model's, then added ones in
                the order of their patches.

        Raises:
            SettingsError: A class that is patched twice or is not among ``classes``.
            DataError: Models that take images of different shapes.
        """
        super().__init__()
        patches = tuple(patches)
        self.weak = weak
        self.targets = tuple(patch.target for patch in patches)
        added = tuple(target for target in self.targets if target not in weak.classes)
        self.classes = (*weak.classes, *added) if classes is None else tuple(classes)
        self.joint = Joint(
            tuple(patch.calibration for patch in patches), tuple(p.gate for p in patches), rule
        )
        _check_patches(weak, patches, self.classes)
        layer = self.joint.layer
        if layer and len(layer.biases) != len(self.classes):
            raise SettingsError(
                f"the linear layer is one of {len(layer.biases)} classes, but there are "
                f"{len(self.classes)}"
            )
        self.layout = Layout.of(self.classes, weak.classes, self.targets)
        self.class_modules = nn.ModuleList(patch.module for patch in patches)
        self.eval()

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches, in the order in which they were given."""
        joint = self.joint
        parts = zip(self.targets, self.class_modules, joint.calibrations, joint.gates, strict=True)
        return tuple(Patch(*part) for part in parts)  # type: ignore[arg-type]

    @property
    def calibrations(self) -> tuple[Calibration, ...]:
        """One per patched class."""
        return self.joint.calibrations

    @property
    def rule(self) -> str:
        """How scores and probabilities are brought together, one of ``RULES``."""
        return self.joint.rule

    @property
    def method(self) -> str:
        """The kinds of its calibrations, and the rule."""
        kinds = dict.fromkeys(calibration.kind for calibration in self.calibrations)
        return ", ".join([*kinds, self.rule])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.weak.input_shape

    def summary(self) -> Summary:
        """Return what is worth seeing at a glance."""
        rows = [
            {
                "patched class": patch.target,
                **patch.module.facts(),
                "calibration": type(patch.calibration).__name__,
                "gate": "none" if patch.gate is None else patch.gate.doubt,
            }
            for patch in self.patches
        ]
        weak = f"{type(self.weak.net).__name__} for {len(self.classes)} classes"
        return Summary(f"Patched model: {weak}, {len(rows)} patches by {self.rule}", rows)

    def without(self, *targets: str) -> "PatchedModel":
        """Return the model without some patches; with none left it is the weak model bit for bit.

        Networks are shared with this model. Classes that only those patches knew are gone.

        Raises:
            SettingsError: A class that is not patched, or some of the classes of a linear layer,
                which is fitted to all of them.
        """
        if self.joint.layer and set(targets) not in (set(), set(self.targets)):
            raise SettingsError(
                "a linear layer is fitted to all patches together; take all away, or patch anew"
            )
        for target in targets:
            require_known("patched class", target, self.targets)
        gone = set(targets) - set(self.weak.classes)
        left = [patch for patch in self.patches if patch.target not in targets]
        rest = [name for name in self.classes if name not in gone]
        classes = rest if left else self.weak.classes
        return PatchedModel(self.weak, left, self.rule, classes)

    def unpatched(self) -> "PatchedModel":
        """Return the weak model with this model's N classes; added ones have probability 0."""
        return PatchedModel(self.weak, (), self.rule, self.classes)

    def opened(self, images: Tensor) -> Tensor:
        """Return for which images each class module is run, bool[B, P]."""
        return self.opened_by(self.weak(images))

    def opened_by(self, logits: Tensor) -> Tensor:
        """Return the same for the weak model's logits [B, weak]."""
        return opened(self.joint, logits, self.layout)

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 or float [B, C, H, W] to one probability per class, [B, N].

        Under the rule ``"replace"`` the rows do not sum to 1, and an unclipped calibration may
        leave [0, 1]; the argmax is the prediction all the same. With no patches, or where all
        gates are shut, it is the weak model's softmax.
        """
        logits = self.weak(images)
        if not self.targets:
            return self.layout.spread(logits.softmax(dim=1), 0.0)
        open_ = opened(self.joint, logits, self.layout)
        scores = [
            self._score(i, images, open_[:, i]).to(logits.dtype) for i in range(len(self.targets))
        ]
        return combine(self.joint, logits, torch.stack(scores, dim=1), open_, self.layout)

    def _score(self, patch: int, images: Tensor, open_: Tensor) -> Tensor:
        """Return the raw scores [B] of one class module, which runs on the opened images only."""
        module = self.class_modules[patch]
        # An exported graph has one path for all images, so that it runs them all.
        if self.joint.gates[patch] is None or torch.compiler.is_exporting():
            return module(images)  # type: ignore[no-any-return]
        rows = open_.nonzero().flatten()
        scores = torch.zeros(len(images), device=images.device)
        if not len(rows):
            return scores
        found = module(images[rows])
        return scores.to(found.dtype).index_copy(0, rows, found)


def patch(
    weak: Classifier,
    modules: Mapping[str, ClassModule],
    data: Splits,
    *,
    calibration: str = "learned",
    rule: str | None = None,
    objective: str = "likelihood",
    floor: float = FLOOR,
    gate: float | None = None,
) -> PatchedModel:
    """Patch classes of a weak model with class modules of a strong one; no network is trained.

    Args:
        weak: The weak model; copied, so neither it nor its later use is affected.
        modules: From names of classes to the class modules that shall score them; classes of the
            data that the weak model lacks may be added. They are shared with the patched model,
            not copied, and put in eval mode.
        data: The weak model's data; all is fitted on ``data.calibration``.
        calibration: One of ``fitting.CHOICES``, see ``Fitting``.
        rule: One of ``RULES``; ``"replace"`` is the paper's (method.md, section 2 step 6). As
            published, range calibrations are unclipped under it; other rules clip.
        objective: What the bias is set for: ``likelihood``, ``f1``, ``recall`` or ``precision``.
        floor: Least change of the accuracy on the other classes, on the calibration images; see
            ``Fitting`` for the calibrations that it has no effect on.
        gate: Share of the gain in F1 that gates must keep; None for no gates.

    Raises:
        SettingsError: A class that neither the weak model nor the data have, unknown settings.
        DataError: Data of other classes, a class without calibration images, input shapes that
            differ, or scores that cannot be calibrated.
    """
    fitting = Fitting(calibration, rule, objective, floor, gate)
    return attach(weak, modules, observe(weak, modules, data.calibration), fitting)


def attach(
    weak: Classifier, modules: Mapping[str, ClassModule], seen: Observations, fitting: Fitting
) -> PatchedModel:
    """Patch like ``patch``, by what these models have said about the calibration images."""
    joint = fit(fitting, seen)
    parts = zip(modules.items(), joint.calibrations, joint.gates, strict=True)
    patches = [Patch(target, module, c, g) for (target, module), c, g in parts]
    return PatchedModel(copy.deepcopy(weak), patches, joint.rule, seen.layout.classes)


def observe(weak: Classifier, modules: Mapping[str, ClassModule], data: ImageSet) -> Observations:
    """Run a weak model and class modules on images of all classes.

    Raises:
        SettingsError: A class that neither the weak model nor the data have.
        DataError: Data of other classes, a class to be patched without images, other shapes.
    """
    require_classes(weak, modules, data.classes)
    require_same_shape({"the weak model": weak.input_shape, "the data": data.images.shape})
    for target, module in modules.items():
        _check_patch(weak, target, module, data.classes)
        if not (data.labels == data.classes.index(target)).any():
            raise DataError(
                f"class {target!r} has no calibration image in {data.images.name}; add some"
            )
    scores = [predict(module, data).detach().double() for module in modules.values()]
    return Observations(
        predict(weak, data).detach().double(),
        torch.stack(scores, dim=1) if scores else torch.empty(len(data), 0, dtype=torch.float64),
        data.labels,
        Layout.of(data.classes, weak.classes, modules),
    )


def known_classes(
    weak: Classifier, targets: Iterable[str], classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return those of the data's classes that the weak model has or a patch adds.

    ``data.relabel`` takes them where a patch that would have added a class is left out.

    Args:
        weak: The weak model.
        targets: The classes that are patched.
        classes: The data's.
    """
    known = {*weak.classes, *targets}
    left = tuple(name for name in classes if name in known)
    # With no class to be added, the outputs stand in the weak model's order.
    return left if set(left) - set(weak.classes) else weak.classes


def require_classes(weak: Classifier, targets: Iterable[str], classes: tuple[str, ...]) -> None:
    """Raise ``DataError`` unless the data's classes are the weak model's and those to be added."""
    added = set(classes) - set(weak.classes)
    shared = tuple(name for name in classes if name not in added)
    unknown = added - set(targets)
    if unknown or set(shared) != set(weak.classes) or (not added and shared != weak.classes):
        raise DataError(
            f"the weak model has the classes ({', '.join(weak.classes)}) but the data "
            f"({', '.join(classes)}); relabel the data to the model's classes, and to those that "
            "patches add"
        )


def _check_patch(
    weak: Classifier, target: str, module: ClassModule, classes: tuple[str, ...]
) -> None:
    require_known("class of the weak model", target, classes)
    name = f"the class module of {module.source_class!r}"
    require_same_shape({"the weak model": weak.input_shape, name: module.input_shape})


def _check_patches(weak: Classifier, patches: tuple[Patch, ...], classes: tuple[str, ...]) -> None:
    targets = [patch.target for patch in patches]
    missing = set(weak.classes) - set(classes)
    if missing or len(set(classes)) != len(classes):
        raise SettingsError(
            f"the classes ({', '.join(classes)}) must be the weak model's "
            f"({', '.join(weak.classes)}), once each, and those that patches add"
        )
    for patch_ in patches:
        _check_patch(weak, patch_.target, patch_.module, classes)
        if targets.count(patch_.target) > 1:
            raise SettingsError(f"class {patch_.target!r} is patched twice; keep one patch")
        known = weak.classes.index(patch_.target) if patch_.target in weak.classes else None
        if patch_.gate is not None and patch_.gate.doubt not in doubts_for(known):
            raise SettingsError(
                f"class {patch_.target!r} is new to the weak model, so that its gate must be "
                f"'unsure', not {patch_.gate.doubt!r}"
            )
