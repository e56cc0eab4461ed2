"""Calibrations of composed class modules: what they learn, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.composition import LEARNED, fit_composition
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.inference import predict

NAMES = ("bird", "cat", "dog")


class Scaled(nn.Module):
    """Channel ``i`` of a one-pixel image, scaled and shifted, is the logit of class ``i``."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) * self.scale + self.shift


def module(name: str, scale: float = 1.0, shift: float = 0.0) -> ClassModule:
    return ClassModule.of(Classifier(Scaled(scale, shift), NAMES, (3, 1, 1)), name)


def pixels(count: int = 300, noise: float = 1.0, seed: int = 0) -> ImageSet:
    """Images whose channel of the right class is brighter by one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = noise * torch.randn(count, 3, generator=generator)
    images[torch.arange(count), labels] += 1
    return ImageSet.from_arrays(images[:, :, None, None], labels, NAMES, "pixels")


def accuracy(modules: list[ClassModule], images: ImageSet, method: str | None) -> float:
    fitted = None if method is None else fit_composition(modules, pixels(seed=1), method)
    right = predict(compose(modules, fitted), images).argmax(1) == images.labels
    return right.double().mean().item()


@given(st.integers(0, 50))
def test_learned_calibration_undoes_any_scale_and_shift(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scales, shifts = torch.rand(2, 3, generator=generator) * 9 + 0.5
    even = [module(name) for name in NAMES]
    odd = [module(*args) for args in zip(NAMES, scales.tolist(), shifts.tolist(), strict=True)]
    images = pixels()
    assert accuracy(odd, images, LEARNED) == pytest.approx(
        accuracy(even, images, LEARNED), abs=0.01
    )
    assert accuracy(odd, images, LEARNED) >= accuracy(even, images, None) - 0.03


def test_two_classes_are_a_logistic_regression() -> None:
    modules, images = [module("bird", 2.0), module("cat", 5.0, 1.0)], pixels(200)
    fitted = fit_composition(modules, images, LEARNED)
    two = images.relabel(("bird", "cat"))
    scores = torch.stack([predict(one, two) for one in modules], dim=1)
    plain = LogisticRegression(C=1e3).fit(scores.numpy(), two.labels.numpy())
    ours = predict(compose(modules, fitted), two).argmax(1)
    assert (ours.numpy() == plain.predict(scores.numpy())).mean() > 0.98


def test_sure_scores_do_not_tie() -> None:
    """All are almost certain, so that their probabilities would round to one."""
    modules, images = [module(name, 1e3) for name in NAMES], pixels(noise=0.3)
    fitted = fit_composition(modules, images, LEARNED)
    outputs = predict(compose(modules, fitted), images)
    assert outputs.sort(dim=1).values.diff(dim=1)[:, -1].min() > 0


def test_modules_stay_as_they_were() -> None:
    modules = [module(name) for name in NAMES]
    modules[0].train()
    fit_composition(modules, pixels(), LEARNED)
    assert modules[0].training


@pytest.mark.parametrize(
    ("names", "method", "error", "message"),
    [
        (NAMES, "learnt", SettingsError, "unknown calibration 'learnt'; did you mean 'learned'"),
        (NAMES[:1], LEARNED, SettingsError, "at least 2 class modules"),
    ],
)
def test_what_makes_no_sense_is_refused(
    names: tuple[str, ...], method: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_composition([module(name) for name in names], pixels(), method)


def test_a_class_without_images_is_named() -> None:
    images = pixels().only(["bird", "cat"])
    with pytest.raises(DataError, match="class 'dog' has no calibration image in pixels"):
        fit_composition([module(name) for name in NAMES], images, LEARNED)
