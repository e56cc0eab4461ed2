from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cnnsplitter.data import ArrayImages, ConcatImages, Images, TensorImages
from cnnsplitter.errors import DataError

PIXELS = torch.randint(
    256, (7, 3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
CHANNELS_LAST = PIXELS.permute(0, 2, 3, 1).numpy()


def joined() -> ConcatImages:
    first, last = TensorImages("a", PIXELS[:2]), TensorImages("c", PIXELS[6:])
    return ConcatImages((first, ArrayImages("b", CHANNELS_LAST[2:6]), last))


def stores() -> list[Images]:
    return [TensorImages("t", PIXELS), ArrayImages("n", CHANNELS_LAST), joined()]


@given(st.lists(st.integers(0, 6), max_size=12))
def test_every_store_reads_the_rows_asked_for_in_that_order(rows: list[int]) -> None:
    wanted = torch.tensor(rows, dtype=torch.int64)
    for store in stores():
        read = store.read(wanted)
        assert torch.equal(read, PIXELS[wanted])
        assert read.dtype == torch.uint8
        assert read.is_contiguous()


def test_every_store_tells_length_and_shape() -> None:
    for store in stores():
        assert len(store) == 7
        assert store.shape == (3, 4, 5)


def test_reading_does_not_hand_out_the_stored_pixels() -> None:
    for store in stores():
        before = store.read(torch.arange(7)).clone()
        store.read(torch.arange(7)).zero_()
        assert torch.equal(store.read(torch.arange(7)), before)


def test_a_mixture_is_named_after_its_parts() -> None:
    assert joined().name == "a + b + c"


def test_double_precision_becomes_single() -> None:
    store = TensorImages("t", torch.rand(2, 1, 2, 2, dtype=torch.float64))
    assert store.read(torch.tensor([1])).dtype == torch.float32


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(2, 4, 4), r"\[N, C, H, W\]"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.int64), "uint8 or floating"),
        (torch.full((2, 1, 4, 4), float("inf")), "NaN or infinite"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tensor: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=f"^t: .*{words}"):
        TensorImages("t", tensor)


def test_images_of_different_shape_or_type_do_not_mix() -> None:
    one = TensorImages("one", PIXELS)
    with pytest.raises(DataError, match=r"^one holds .*\(3, 4, 5\) but two of shape \(1, 4, 5\)"):
        ConcatImages((one, TensorImages("two", PIXELS[:, :1])))
    with pytest.raises(DataError, match=r"^one holds torch.uint8 images but two torch.float32"):
        ConcatImages((one, TensorImages("two", PIXELS.float())))


def test_a_memory_map_stays_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "pixels"
    CHANNELS_LAST.tofile(path)
    mapped = np.memmap(path, np.uint8, "r", shape=CHANNELS_LAST.shape)
    store = ArrayImages("m", mapped)
    assert store.array is mapped
    assert torch.equal(store.read(torch.tensor([5, 1, 5])), PIXELS[[5, 1, 5]])


def test_values_too_large_for_single_precision_are_refused() -> None:
    with pytest.raises(DataError, match="NaN or infinite"):
        TensorImages("t", torch.full((2, 3, 4, 5), 1e300, dtype=torch.float64))
