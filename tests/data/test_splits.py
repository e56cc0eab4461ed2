import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.data import (
    ImageSet,
    PhotoImages,
    Splits,
    SplitShares,
    TensorImages,
    load_named,
    make_splits,
)
from cnnsplitter.errors import DataError, SettingsError

NAMES = ("a", "b", "c", "d")
PIXELS = torch.Generator().manual_seed(0)


def image_set(labels: list[int], name: str = "set") -> ImageSet:
    # No image is there twice, in whichever set.
    pixels = torch.randint(256, (len(labels), 1, 1, 16), dtype=torch.uint8, generator=PIXELS)
    images = TensorImages(name, pixels)
    return ImageSet.whole(images, torch.tensor(labels, dtype=torch.int64), NAMES)


@st.composite
def share_sets(draw: st.DrawFn) -> SplitShares:
    weights = draw(st.sampled_from([(7, 2, 1), (0, 1, 1), (1, 0, 1), (1, 2, 0), (0, 0, 1)]))
    total = sum(weights)
    train, search, rest = (weight / total for weight in weights)
    return SplitShares(train, search, rest, test=draw(st.sampled_from([0.0, 0.2, 0.5, 1.0])))


def random_labels(n: int, seed: int) -> list[int]:
    labels: list[int] = torch.randint(
        4, (n,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return labels


# Drawn by length and seed: lists drawn label by label are mostly too short to tell splits apart.
LABELS = st.builds(random_labels, st.integers(0, 80), st.integers(0, 99))
CASES = given(labels=LABELS, shares=share_sets(), seed=st.integers(0, 2**31))


def ids(data: ImageSet) -> list[tuple[str, int]]:
    return [(data.images.name, int(row)) for row in data.rows]


@CASES
def test_every_image_is_in_exactly_one_split_with_its_label(
    labels: list[int], shares: SplitShares, seed: int
) -> None:
    splits = make_splits(image_set(labels), shares=shares, seed=seed)
    found = sorted(image for part in splits.sets for image in ids(part))
    assert found == [("set", row) for row in range(len(labels))]
    for part in splits.sets:
        assert part.labels.tolist() == [labels[row] for row in part.rows]


@given(
    labels=LABELS,
    shares=share_sets(),
    seed=st.integers(0, 9),
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
)
def test_leaving_classes_out_before_or_after_moves_no_image(
    labels: list[int], shares: SplitShares, seed: int, names: list[str]
) -> None:
    data = image_set(labels)
    after = make_splits(data, shares=shares, seed=seed).relabel(names)
    before = make_splits(data.relabel(names), shares=shares, seed=seed)
    for one, other in zip(after.sets, before.sets, strict=True):
        assert torch.equal(one.rows, other.rows)
        assert torch.equal(one.labels, other.labels)


@CASES
def test_each_class_is_shared_out_to_within_one_image(
    labels: list[int], shares: SplitShares, seed: int
) -> None:
    data = image_set(labels)
    splits = make_splits(data, shares=shares, seed=seed)
    rest = 1 - shares.test
    wanted = (rest * shares.train, rest * shares.search, rest * shares.calibration, shares.test)
    for part, share in zip(splits.sets, wanted, strict=True):
        assert ((part.counts() - share * data.counts()).abs() <= 1 + 1e-6).all()
        if share == 0:
            assert len(part) == 0


@CASES
def test_an_official_test_set_stays_as_it_is(
    labels: list[int], shares: SplitShares, seed: int
) -> None:
    official = image_set([0, 3], "official")
    splits = make_splits(image_set(labels), official, shares=shares, seed=seed)
    assert splits.test is official
    assert sum(len(part) for part in splits.sets[:3]) == len(labels)


def test_the_seed_alone_decides() -> None:
    data = image_set([0, 1, 2, 3] * 25)
    state = torch.get_rng_state()
    one, same, other = (make_splits(data, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.search.rows, same.search.rows)
    assert not torch.equal(one.search.rows, other.search.rows)
    assert torch.equal(state, torch.get_rng_state())


def test_no_digit_image_is_in_two_splits_by_its_pixels() -> None:
    digits, _ = load_named("digits")
    splits = make_splits(digits, seed=0)
    hashes = [
        {hashlib.sha256(image.numpy().tobytes()).digest() for image in next(part.batches(2000))[0]}
        for part in splits.sets
    ]
    assert [len(part) for part in hashes] == [len(part) for part in splits.sets]
    assert len(set.union(*hashes)) == sum(map(len, hashes)) == 1797


def test_the_filters_and_properties_reach_every_set() -> None:
    splits = make_splits(image_set([0, 1, 2, 3] * 20), seed=0)
    assert splits.classes == NAMES
    assert splits.input_shape == (1, 1, 16)
    assert splits.broken == ()
    only = splits.only(name for name in ("d",))
    assert only.classes == NAMES
    assert all(part.labels.eq(3).all() and len(part) for part in only.sets)
    assert splits.relabel(name for name in ("d", "a")).classes == ("d", "a")


def test_broken_files_of_all_sets_are_gathered_once() -> None:
    store = PhotoImages("photos", (Path("a.png"),), 1, 1, (Path("b.png"),))
    data = ImageSet.whole(store, torch.tensor([0]), NAMES)
    assert make_splits(data, seed=0).broken == (Path("b.png"),)


@pytest.mark.parametrize(
    "shares", [{"train": 0.9}, {"test": 1.5}, {"train": 1.2, "search": -0.35}, {"search": 0.1}]
)
def test_shares_that_do_not_add_up_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="got SplitShares"):
        SplitShares(**shares)


def test_an_image_given_twice_is_refused() -> None:
    data = image_set([0, 1, 2])
    with pytest.raises(DataError, match=r"^set: an image is given twice"):
        make_splits(data.take(torch.tensor([0, 1, 1])), seed=0)
    with pytest.raises(DataError, match=r"^set: an image is given twice"):
        make_splits(data, data.take(torch.tensor([2])), seed=0)
    first, last = data.take(torch.tensor([0, 1])), data.take(torch.tensor([2]))
    assert make_splits(first, last, seed=0).test is last


def test_sets_that_do_not_fit_are_refused() -> None:
    data = image_set([0, 1])
    with pytest.raises(DataError, match=r"^set has classes a, b, c, d but set a"):
        Splits(data, data, data, data.relabel(["a"]))
    large = ImageSet.from_arrays(torch.zeros(1, 1, 2, 2), [0], NAMES, "large")
    with pytest.raises(DataError, match=r"\(1, 1, 16\) but large of shape \(1, 2, 2\)"):
        Splits(data, data, data, large)
