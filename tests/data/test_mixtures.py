import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.data import ImageSet, load_named, make_splits, mix, mix_splits
from cnnsplitter.errors import DataError


def image_set(labels: list[int], classes: str, offset: int = 0) -> ImageSet:
    """Image i is one pixel of value offset + i."""
    pixels = (torch.arange(len(labels)) + offset).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageSet.from_arrays(pixels, labels, classes, f"set {classes}")


LABELS = st.lists(st.integers(0, 1), min_size=1, max_size=30)


def contents(data: ImageSet) -> list[tuple[int, str]]:
    return [
        (int(p), data.classes[y]) for x, ys in data.batches(7) for p, y in zip(x, ys, strict=True)
    ]


@given(LABELS, LABELS)
def test_a_mixture_holds_the_images_of_both_with_their_classes(
    one: list[int], other: list[int]
) -> None:
    first, second = image_set(one, "ab"), image_set(other, "cd", offset=100)
    mixed = mix(first, second)
    assert mixed.classes == ("a", "b", "c", "d")
    assert contents(mixed) == contents(first) + contents(second)


@given(LABELS, LABELS, st.integers(0, 9))
def test_mixing_before_or_after_the_split_gives_the_same_splits(
    one: list[int], other: list[int], seed: int
) -> None:
    first, second = image_set(one, "ab"), image_set(other, "cd", offset=100)
    after = mix_splits(make_splits(first, seed=seed), make_splits(second, seed=seed))
    before = make_splits(mix(first, second), seed=seed)
    for part, same in zip(after.sets, before.sets, strict=True):
        assert contents(part) == contents(same)


def test_digits_six_to_nine_and_one_other_are_one_line() -> None:
    digits, _ = load_named("digits")
    weak = mix(digits.relabel("6789"), digits.relabel("2"))
    assert weak.classes == ("6", "7", "8", "9", "2")
    assert weak.counts().tolist() == digits.counts()[[6, 7, 8, 9, 2]].tolist()


def test_an_image_of_a_mixture_is_in_the_same_split_as_in_its_source() -> None:
    digits, _ = load_named("digits")
    strong = make_splits(digits, seed=3).relabel("2")
    weak = make_splits(mix(digits.relabel("6789"), digits.relabel("2")), seed=3).relabel("2")
    for one, other in zip(strong.sets, weak.sets, strict=True):
        assert torch.equal(next(one.batches(999))[0], next(other.batches(999))[0])


def test_sets_that_share_a_class_or_differ_in_shape_do_not_mix() -> None:
    first = image_set([0, 1], "ab")
    with pytest.raises(DataError, match=r"^set ab and set bc both have class 'b'"):
        mix(first, image_set([0, 1], "bc"))
    large = ImageSet.from_arrays(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0], "c", "large")
    with pytest.raises(DataError, match=r"^set ab holds images of shape .* but large"):
        mix(first, large)
