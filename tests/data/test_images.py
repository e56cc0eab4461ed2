import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cnnsplitter.data import ImageSet, TensorImages
from cnnsplitter.data.images import class_ranks
from cnnsplitter.errors import DataError, SettingsError

NAMES = ("a", "b", "c", "d")
LABELS = st.lists(st.integers(0, 3), max_size=40)


def image_set(labels: list[int]) -> ImageSet:
    """Image i is one pixel of value i."""
    pixels = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    return ImageSet.whole(
        TensorImages("set", pixels), torch.tensor(labels, dtype=torch.int64), NAMES
    )


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(LABELS, st.integers(1, 50))
def test_batches_are_the_whole_set_in_order(labels: list[int], size: int) -> None:
    data = image_set(labels)
    batches = list(data.batches(size))
    assert [int(p) for images, _ in batches for p in images] == list(range(len(labels)))
    assert [int(y) for _, part in batches for y in part] == labels
    assert all(len(part) == size for _, part in batches[:-1])
    assert all(len(part) for _, part in batches)


@given(LABELS)
def test_counts_agree_with_numpy(labels: list[int]) -> None:
    expected = [int((np.array(labels) == index).sum()) for index in range(4)]
    assert image_set(labels).counts().tolist() == expected


@given(LABELS, st.lists(st.sampled_from(NAMES), unique=True))
def test_relabel_keeps_exactly_the_images_of_the_named_classes(
    labels: list[int], names: list[str]
) -> None:
    data = image_set(labels)
    relabelled = data.relabel(names)
    assert relabelled.classes == tuple(names)
    found = [(int(r), names[y]) for r, y in zip(relabelled.rows, relabelled.labels, strict=True)]
    assert found == [(row, NAMES[y]) for row, y in enumerate(labels) if NAMES[y] in names]
    only = data.only(names)
    assert torch.equal(only.rows, relabelled.rows)
    assert only.classes == NAMES
    assert [NAMES[y] for y in only.labels] == [name for _, name in found]


def test_take_accepts_positions_and_masks() -> None:
    data = image_set([0, 1, 2, 3]).take(torch.tensor([3, 1, 0]))
    assert data.rows.tolist() == [3, 1, 0]
    assert data.take(torch.tensor([True, False, True])).labels.tolist() == [3, 0]


@given(LABELS, st.integers(0, 50), st.integers(0, 5))
def test_sample_is_a_stratified_subset_in_order(labels: list[int], n: int, seed: int) -> None:
    data = image_set(labels)
    sample = data.sample(n, generator(seed))
    assert len(sample) == min(n, len(labels))
    rows = sample.rows.tolist()
    assert rows == sorted(set(rows))
    assert sample.labels.tolist() == [labels[row] for row in rows]
    # Proportional: a class ahead of another by more than an image each would be unfair.
    share = sample.counts() / data.counts().clamp(min=1)
    slack = 1 / data.counts().clamp(min=1)
    for i in range(4):
        for j in range(4):
            if data.counts()[i] and data.counts()[j]:
                assert share[i] - share[j] <= slack[i] / 2 + slack[j] / 2 + 1e-6


def test_sample_depends_on_the_generator_only() -> None:
    data = image_set([0, 1] * 20)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = data.sample(10, generator(3)).rows
    assert torch.equal(first, data.sample(10, generator(3)).rows)
    assert not torch.equal(first, data.sample(10, generator(4)).rows)
    assert torch.equal(state, torch.get_rng_state())


@given(LABELS, st.integers(0, 5))
def test_ranks_count_up_within_each_class_by_priority(labels: list[int], seed: int) -> None:
    y = torch.tensor(labels, dtype=torch.int64)
    priority = torch.randperm(len(labels), generator=generator(seed))
    ranks = class_ranks(y, priority)
    for i in range(len(labels)):
        ahead = (y == y[i]) & (priority < priority[i])
        assert ranks[i] == ahead.sum()


def test_arrays_of_any_kind_give_the_same_set() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    from_numpy = ImageSet.from_arrays(pixels, [0, 1], ["a", "b"], "mine")
    from_torch = ImageSet.from_arrays(
        torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.tensor([0, 1]), ("a", "b")
    )
    assert torch.equal(next(from_numpy.batches(9))[0], next(from_torch.batches(9))[0])
    assert from_numpy.images.name == "mine"
    assert ImageSet.from_arrays(pixels[..., 0], [0, 1], "ab").images.shape == (1, 4, 5)


@pytest.mark.parametrize(
    ("pixels", "labels", "classes", "words"),
    [
        (torch.zeros(2, 1, 2, 2), [0], "ab", "2 images but 1 labels"),
        (torch.zeros(2, 1, 2, 2), [0, 2], "ab", "label 2 is out of range; there are 2 classes"),
        (torch.zeros(2, 1, 2, 2), [0, -1], "ab", "label -1 is out of range"),
        (torch.zeros(2, 1, 2, 2), [0, 1], "aa", "'a' is named twice"),
        (np.zeros((2, 2)), [0, 1], "ab", "images must be"),
        (np.full((2, 2, 2), np.nan), [0, 1], "ab", "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    pixels: Tensor, labels: list[int], classes: str, words: str
) -> None:
    with pytest.raises(DataError, match=f"^mine: .*{words}"):
        ImageSet.from_arrays(pixels, labels, classes, "mine")


def test_rows_outside_the_store_are_refused() -> None:
    images = TensorImages("mine", torch.zeros(2, 1, 2, 2))
    with pytest.raises(DataError, match="row 2 is out of range; there are 2 images"):
        ImageSet(images, torch.tensor([2]), torch.tensor([0]), ("a",))


def test_unknown_and_repeated_classes_are_refused() -> None:
    with pytest.raises(SettingsError, match="unknown class 'A'"):
        image_set([0]).only(["A"])
    with pytest.raises(SettingsError, match="given twice in a, a"):
        image_set([0]).relabel(["a", "a"])
