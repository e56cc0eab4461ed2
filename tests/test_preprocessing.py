import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import SettingsError
from cnnsplitter.preprocessing import IMAGENET, Preprocessing

IMAGES = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).view(2, 3, 2, 2)
means = st.tuples(*[st.floats(-2, 2)] * 3)
stds = st.tuples(*[st.floats(0.1, 2)] * 3)


@given(means, stds)
def test_each_channel_is_normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    found = Preprocessing(mean, std)(IMAGES)
    assert found.dtype == torch.float32
    for channel in range(3):
        expected = (IMAGES[:, channel].float() / 255 - mean[channel]) / std[channel]
        torch.testing.assert_close(found[:, channel], expected)


def test_one_value_is_for_all_channels() -> None:
    one, three = Preprocessing((0.5,), (0.25,)), Preprocessing((0.5,) * 3, (0.25,) * 3)
    assert torch.equal(one(IMAGES), three(IMAGES))


def test_floats_are_not_scaled_and_keep_their_type() -> None:
    images = torch.rand(1, 3, 2, 2, dtype=torch.float64)
    assert torch.equal(Preprocessing()(images), images)
    assert IMAGENET(images).dtype == torch.float64


def test_the_images_are_left_as_they_were() -> None:
    images = torch.rand(1, 3, 2, 2)
    before = images.clone()
    IMAGENET(images)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((math.nan,), (1.0,)),
        ((math.inf,), (1.0,)),
        ((0.0,), (0.0,)),
        ((0.0,), (1.0, -1.0)),
        ((0.0,), (math.inf,)),
        ((0.0,), (math.nan,)),
        ((), (1.0,)),
        ((0.0,), ()),
    ],
)
def test_impossible_values_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(SettingsError, match="finite means and positive stds"):
        Preprocessing(mean, std)
