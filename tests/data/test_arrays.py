from typing import Any

import numpy as np
import pytest
import torch

from cnnsplitter.data.arrays import image_shape, require_finite, to_labels, to_nchw
from cnnsplitter.errors import DataError


def test_images_keep_their_pixels_when_the_channel_axis_moves() -> None:
    array = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = to_nchw(array)
    assert tensor.shape == (2, 3, 4, 5)
    assert tensor[1, 2, 3, 4] == array[1, 3, 4, 2]
    assert image_shape(array, "a") == (3, 4, 5)


def test_grey_images_get_a_channel_axis() -> None:
    array = np.zeros((2, 4, 5), dtype=np.uint8)
    assert to_nchw(array).shape == (2, 1, 4, 5)
    assert image_shape(array, "a") == (1, 4, 5)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_floats_become_float32(dtype: str) -> None:
    tensor = to_nchw(np.full((1, 2, 2), 0.5, dtype=dtype))
    assert tensor.dtype == torch.float32
    assert tensor.eq(0.5).all()


def test_a_read_only_array_is_copied() -> None:
    array = np.zeros((1, 2, 2), dtype=np.uint8)
    array.flags.writeable = False
    to_nchw(array)[0] = 1
    assert array.sum() == 0


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 2), np.uint8), r"\[N, H, W\] or \[N, H, W, C\]"),
        (np.zeros((2, 2, 2), np.int64), "uint8 or floating, got int64"),
        (np.zeros((0, 2, 2), np.uint8), "no images"),
        (np.zeros((2, 3, 32, 32), np.uint8), r"give \[N, H, W, C\]"),
    ],
)
def test_images_that_do_not_fit_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=f"^a.npz: .*{words}"):
        image_shape(array, "a.npz")


@pytest.mark.parametrize("row", [0, 1023, 1024, 1500])
def test_not_a_number_is_found_in_any_chunk(row: int) -> None:
    array = np.zeros((1501, 1, 1), dtype=np.float32)
    require_finite(array, "a.npz")
    array[row] = np.nan
    with pytest.raises(DataError, match=f"image {row} holds NaN"):
        require_finite(array, "a.npz")


def test_labels_become_int64() -> None:
    for values in ([1, 0], np.array([1, 0], np.uint8), torch.tensor([1, 0])):
        assert torch.equal(to_labels(values, "a"), torch.tensor([1, 0]))
    assert to_labels([], "a").dtype == torch.int64


@pytest.mark.parametrize("values", [[0.5], [[0, 1]], ["cat"], [[0], [0, 1]]])
def test_labels_that_are_not_one_whole_number_each_are_refused(values: Any) -> None:
    with pytest.raises(DataError, match=r"^a: labels must be"):
        to_labels(values, "a")
