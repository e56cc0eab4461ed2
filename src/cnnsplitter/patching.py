"""Patching a weak model: class modules of a strong model score the classes that it is poor at."""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnnsplitter.calibration import METHODS, Calibration
from cnnsplitter.class_modules import ClassModule, calibrate, require_same_shape
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits
from cnnsplitter.errors import DataError, SettingsError, require_known

Rule = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weak logits [B, N], patched columns int64[P], calibrated scores [B, P]) -> outputs [B, N]."""


@dataclass(frozen=True, eq=False)
class Patch:
    """A class module attached to a weak model.

    Attributes:
        target: The class it scores, by its name in the weak model.
        module: The class module; the class may have another name in its strong model.
        calibration: Makes its score comparable with the weak model's probabilities.
    """

    target: str
    module: ClassModule
    calibration: Calibration


class PatchedModel(nn.Module):
    """A weak model with patches. Everything in it is put in eval mode.

    Attributes:
        weak: The weak model.
        targets: The patched classes.
        calibrations: One per patched class.
        rule: How scores and probabilities are brought together, one of ``RULES``.
    """

    def __init__(self, weak: Classifier, patches: Iterable[Patch], rule: str = "replace") -> None:
        super().__init__()
        patches = tuple(patches)
        self.weak = weak
        self.targets = tuple(patch.target for patch in patches)
        self.calibrations = tuple(patch.calibration for patch in patches)
        self.class_modules = nn.ModuleList(patch.module for patch in patches)
        self.rule = rule
        _check_patches(weak, patches, rule)
        self._columns = [weak.classes.index(target) for target in self.targets]
        self.eval()

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The patches, in the order in which they were given."""
        parts = zip(self.targets, self.class_modules, self.calibrations, strict=True)
        return tuple(Patch(*part) for part in parts)  # type: ignore[arg-type]

    @property
    def classes(self) -> tuple[str, ...]:
        """The N class names of the weak model."""
        return self.weak.classes

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.weak.input_shape

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 or float [B, C, H, W] to one probability per class, [B, N].

        Under the rule ``"replace"`` the rows do not sum to 1, and an unclipped calibration may
        leave [0, 1]; the argmax is the prediction all the same. With no patches it is the weak
        model's softmax.
        """
        logits = self.weak(images)
        if not self.targets:
            return logits.softmax(dim=1)  # type: ignore[no-any-return]
        parts = zip(self.calibrations, self.class_modules, strict=True)
        scores = torch.stack([rule(module(images)) for rule, module in parts], dim=1)
        columns = torch.tensor(self._columns, device=logits.device)
        return RULES[self.rule](logits, columns, scores.to(logits.dtype))


def patch(
    weak: Classifier,
    modules: Mapping[str, ClassModule],
    data: Splits,
    *,
    calibration: str = "min-max",
    rule: str = "replace",
) -> PatchedModel:
    """Patch classes of a weak model with class modules of a strong one, without training.

    Args:
        weak: The weak model; copied, so neither it nor its later use is affected.
        modules: From names of the weak model's classes to the class modules that shall score them.
        data: The weak model's data; the calibrations are fitted on ``data.calibration``.
        calibration: One of ``calibration.METHODS``. As published, range calibrations are unclipped
            under the rule ``"replace"``; other rules need scores in [0, 1] and clip.
        rule: One of ``RULES``; ``"replace"`` is the paper's (method.md, section 2 step 6).

    Raises:
        SettingsError: A class that the weak model does not have, an unknown calibration or rule.
        DataError: Data of other classes, a class without calibration images, input shapes that
            differ, or scores that cannot be calibrated.
    """
    require_known("calibration", calibration, METHODS)
    require_known("rule", rule, RULES)
    _check_data(weak, data)
    for target, module in modules.items():
        _check_patch(weak, target, module)
    patches = [
        Patch(
            target,
            module,
            calibrate(module, data.calibration, target, calibration, clip=rule != "replace"),
        )
        for target, module in modules.items()
    ]
    return PatchedModel(copy.deepcopy(weak), patches, rule)


def _replace(logits: Tensor, columns: Tensor, scores: Tensor) -> Tensor:
    return logits.softmax(dim=1).index_copy(1, columns, scores)


def _renormalise(logits: Tensor, columns: Tensor, scores: Tensor) -> Tensor:
    # Each score is the odds of its class against the unpatched ones: a single patch keeps its
    # score exactly and the others share the rest in the weak model's proportions; several patches
    # compete by their odds, in no order. The bound on scores of 0 and 1 keeps their odds finite.
    others = logits.index_fill(1, columns, -torch.inf).log_softmax(dim=1)
    return others.index_copy(1, columns, scores.logit(eps=1e-6)).softmax(dim=1)


RULES: Mapping[str, Rule] = {"replace": _replace, "renormalise": _renormalise}
"""``"replace"``: the target's column is replaced, the others keep the probabilities of the weak
model (the paper's). ``"renormalise"``: the others are scaled so that every row sums to 1."""


def _check_data(weak: Classifier, data: Splits) -> None:
    if tuple(weak.classes) != tuple(data.classes):
        raise DataError(
            f"the weak model has the classes ({', '.join(weak.classes)}) but the data "
            f"({', '.join(data.classes)}); relabel the data to the model's classes"
        )
    require_same_shape({"the weak model": weak.input_shape, "the data": data.input_shape})


def _check_patch(weak: Classifier, target: str, module: ClassModule) -> None:
    require_known("class of the weak model", target, weak.classes)
    name = f"the class module of {module.source_class!r}"
    require_same_shape({"the weak model": weak.input_shape, name: module.input_shape})


def _check_patches(weak: Classifier, patches: tuple[Patch, ...], rule: str) -> None:
    require_known("rule", rule, RULES)
    targets = [patch.target for patch in patches]
    for patch_ in patches:
        _check_patch(weak, patch_.target, patch_.module)
        if targets.count(patch_.target) > 1:
            raise SettingsError(f"class {patch_.target!r} is patched twice; keep one patch")
