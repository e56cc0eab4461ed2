"""Calibrations of class modules that are composed, of one strong model or of several."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cnnsplitter.calibration import METHODS, Calibration, LearnedCalibration
from cnnsplitter.class_modules import ClassModule, calibrate, require_same_shape
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SettingsError, require_known
from cnnsplitter.inference import predict
from cnnsplitter.patches.combining import Layout, Observations
from cnnsplitter.patches.likelihood import fit_learned

LEARNED = "learned"


def fit_composition(
    modules: Sequence[ClassModule], images: ImageSet, method: str
) -> Mapping[str, Calibration]:
    """Fit one calibration for each class module, by which their scores compete.

    The paper's rules see the images of each module's own class only. ``learned`` fits a scale and a
    bias for each class, all together, so that the images of every class are told from the others'
    (vector scaling: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    Args:
        modules: The class modules, at least two; left untouched.
        images: Calibration images of their classes.
        method: One of the paper's rules, or ``learned``.

    Returns:
        Class name to calibration, for ``compose``.

    Raises:
        SettingsError: An unknown rule, or a class that the images do not know.
        DataError: A class without an image, images of another shape, or scores that cannot be
            scaled.
    """
    require_known("calibration", method, (*METHODS, LEARNED))
    if method == LEARNED:
        return _learned(modules, images)
    return {
        module.source_class: calibrate(module, images, module.source_class, method, clip=False)
        for module in modules
    }


def _learned(modules: Sequence[ClassModule], images: ImageSet) -> Mapping[str, LearnedCalibration]:
    classes = tuple(module.source_class for module in modules)
    if len(classes) < 2:
        raise SettingsError("calibration 'learned' compares classes; give at least 2 class modules")
    for name in classes:
        require_known("class", name, images.classes)
    images = images.relabel(classes)
    for name, count in zip(classes, images.counts(), strict=True):
        if not count:
            raise DataError(f"class {name!r} has no calibration image in {images.images.name}")
    shapes = {f"the class module of {m.source_class!r}": m.input_shape for m in modules}
    require_same_shape({**shapes, images.images.name: images.images.shape})
    scores = torch.stack([predict(module, images) for module in modules], dim=1)
    layout = Layout.of(classes, (), classes)
    fitted = fit_learned(LEARNED, Observations(scores[:, :0], scores, images.labels, layout))
    return dict(zip(classes, _below_one(fitted, scores), strict=True))


def _below_one(fitted: Sequence[LearnedCalibration], scores: Tensor) -> list[LearnedCalibration]:
    """Lower all biases alike, so that no two probabilities round to 1 and tie."""
    odds = [rule.log_odds(score) for rule, score in zip(fitted, scores.unbind(1), strict=True)]
    most = torch.stack(odds).max().item()
    return [replace(rule, bias=rule.bias - most) for rule in fitted]
