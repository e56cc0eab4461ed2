import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from cnnsplitter.augmentation import flip_some, shift_each


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(n: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    return torch.randint(1, 255, (n, 3, 5, 7), generator=_generator(9)).to(dtype)


def test_each_image_is_flipped_or_not() -> None:
    images = _images(200)
    results = flip_some(images, _generator())
    kept = (results == images).flatten(1).all(dim=1)
    flipped = (results == images.flip(3)).flatten(1).all(dim=1)
    assert (kept ^ flipped).all()
    assert 60 < int(flipped.sum()) < 140


@settings(max_examples=20, deadline=None)
@given(pixels=st.integers(1, 4), dtype=st.sampled_from([torch.uint8, torch.float32]))
def test_each_image_is_a_crop_of_itself_padded(pixels: int, dtype: torch.dtype) -> None:
    images = _images(60, dtype)
    results = shift_each(images, pixels, _generator())
    assert results.shape == images.shape
    assert results.dtype == dtype
    seen = set()
    for image, result in zip(images, results, strict=True):
        padded = functional.pad(image, [pixels] * 4)
        crops = padded.unfold(1, 5, 1).unfold(2, 7, 1)
        equal = (crops == result[:, None, None]).all(dim=0).flatten(2).all(dim=2)
        assert equal.any()
        seen.add(tuple(equal.nonzero()[0].tolist()))
    assert len(seen) > 5


def test_only_the_generator_decides() -> None:
    images, before = _images(50), torch.get_rng_state()
    for change in (flip_some, lambda i, g: shift_each(i, 2, g)):
        assert torch.equal(change(images, _generator(1)), change(images, _generator(1)))
        assert not torch.equal(change(images, _generator(1)), change(images, _generator(2)))
    assert torch.equal(before, torch.get_rng_state())
