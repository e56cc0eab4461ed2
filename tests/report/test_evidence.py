"""Evidence counts what the comparison counts."""

import io
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.calibration import calibration_curve
from torch import nn

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.evaluation import compare
from cnnsplitter.inference import predict
from cnnsplitter.patches.patching import PatchedModel, patch
from cnnsplitter.report import Evidence, gather_evidence
from cnnsplitter.report.evidence import BINS, png_of

NAMES = ("bird", "cat", "dog")
SHAPE = (3, 1, 1)
Case = tuple[Classifier, PatchedModel, Evidence]


def pixels(count: int, seed: int) -> ImageSet:
    """One-pixel images; the class is mostly the channel of the highest value."""
    images = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 4
    labels = images.view(count, 3).argmax(dim=1)
    labels[::5] = torch.arange(len(labels[::5])) % 3
    return ImageSet.from_arrays(images, labels, NAMES, "pixels")


DATA = pixels(200, seed=0)


@pytest.fixture(scope="module")
def case() -> Case:
    weak = Classifier(nn.Flatten(), NAMES, SHAPE)
    patched = patch(
        weak,
        {"cat": ClassModule(nn.Sequential(nn.Flatten(), nn.Softmax(dim=1)), "dog", NAMES, SHAPE)},
        Splits(*(pixels(90, seed) for seed in range(1, 5))),
        calibration="min-max",
    )
    return weak, patched, gather_evidence(patched, "cat", DATA)


def test_confusions_and_flips_are_those_of_the_comparison(case: Case) -> None:
    weak, patched, found = case
    comparison = compare(weak, patched, DATA)
    assert found.confusion_before == comparison.before.confusion.tolist()
    assert found.confusion_after == comparison.after.confusion.tolist()
    assert found.won_count == len(comparison.wrong_to_right) > 0
    assert found.lost_count == len(comparison.right_to_wrong) > 0
    assert all(flip.truth == flip.after != flip.before for flip in found.won)
    assert all(flip.truth == flip.before != flip.after for flip in found.lost)


def test_scores_are_those_of_scikit_learn(case: Case) -> None:
    weak, _, found = case
    probability = predict(weak, DATA).softmax(dim=1)[:, 1].numpy()
    is_target = (DATA.labels == 1).numpy()
    true, given = calibration_curve(is_target, probability, n_bins=BINS)
    np.testing.assert_allclose(found.scores_before.calibration, [given, true], atol=1e-6)
    for row, part in zip(found.scores_before.histogram, (is_target, ~is_target), strict=True):
        assert row == np.histogram(probability[part], BINS, (0, 1))[0].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flip_shows_the_image_itself(channels: int) -> None:
    image = torch.arange(channels * 20, dtype=torch.uint8).view(channels, 4, 5)
    picture = Image.open(io.BytesIO(b64decode(png_of(image))))
    pixels = torch.from_numpy(np.array(picture)).view(4, 5, channels)
    assert torch.equal(pixels.permute(2, 0, 1), image)


def test_float_images_are_stretched_to_be_seen() -> None:
    image = torch.linspace(-1, 3, 12).view(1, 3, 4)
    pixels = np.array(Image.open(io.BytesIO(b64decode(png_of(image)))))
    assert pixels.min() == 0
    assert pixels.max() == 255
