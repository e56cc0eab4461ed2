"""No image that a figure is measured on was seen before, whatever the user's set holds."""

import math
import re
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from cnnsplitter.data import (
    ImageSet,
    Splits,
    load_data,
    make_splits,
    mix_splits,
    near_twins,
    unseen,
)
from cnnsplitter.errors import DataError
from cnnsplitter.pipeline import Run
from cnnsplitter.recipes import Recipe, load_recipe
from shop import call

CLASSES = ("ant", "bee", "cow")


@st.composite
def doubled(draw: st.DrawFn) -> ImageSet:
    """A set in which some images are there several times, also with different labels."""
    count = draw(st.integers(6, 40))
    picture = draw(st.lists(st.integers(0, count // 2), min_size=count, max_size=count))
    label = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    return set_of(torch.tensor(picture), torch.tensor(label))


def set_of(pictures: Tensor, labels: Tensor, *, brightness: int = 0) -> ImageSet:
    random = np.random.default_rng(0).integers(0, 200, (100, 4, 4, 1), dtype=np.uint8)
    return ImageSet.from_arrays(random[pictures.numpy()] + np.uint8(brightness), labels, CLASSES)


def pixels(data: ImageSet) -> set[bytes]:
    return {image.numpy().tobytes() for image in data.images.read(data.rows)}


def labelled(data: ImageSet) -> list[tuple[int, bytes]]:
    images = (image.numpy().tobytes() for image in data.images.read(data.rows))
    return list(zip(data.labels.tolist(), images, strict=True))


def assert_disjoint(splits: Splits) -> None:
    for one, other in combinations(splits.sets, 2):
        assert not pixels(one) & pixels(other)


@given(doubled(), st.integers(0, 2**40))
def test_no_image_is_in_two_sets(data: ImageSet, seed: int) -> None:
    splits = make_splits(data, seed=seed)
    assert_disjoint(splits)
    assert sum(map(len, splits.sets)) == len(data)
    rows = torch.cat([part.rows for part in splits.sets])
    assert rows.sort().values.tolist() == list(range(len(data)))


@given(doubled(), doubled(), st.integers(0, 9))
def test_copies_of_test_images_are_left_out_and_the_test_set_stays(
    data: ImageSet, test: ImageSet, seed: int
) -> None:
    splits = make_splits(data, test, seed=seed)
    assert_disjoint(splits)
    assert splits.test.rows.tolist() == test.rows.tolist()
    assert set.union(*map(pixels, splits.sets[:3])) == pixels(data) - pixels(test)


@given(doubled(), st.sets(st.integers(0, 2), min_size=1), st.integers(0, 9))
def test_leaving_classes_out_moves_no_copy(data: ImageSet, kept: set[int], seed: int) -> None:
    wanted = data.take(torch.isin(data.labels, torch.tensor(sorted(kept))))
    whole, some = make_splits(data, seed=seed), make_splits(wanted, seed=seed)
    for part, less in zip(whole.sets, some.sets, strict=True):
        stays = torch.isin(part.labels, torch.tensor(sorted(kept)))
        assert part.take(stays).rows.tolist() == less.rows.tolist()


@given(doubled(), doubled(), st.integers(0, 9))
def test_mixtures_share_no_image_between_sets(one: ImageSet, other: ImageSet, seed: int) -> None:
    renamed = ImageSet(other.images, other.rows, other.labels, ("dog", "elk", "fox"))
    mixed = mix_splits(make_splits(one, seed=seed), make_splits(renamed, seed=seed))
    assert_disjoint(mixed)
    assert set.union(*map(pixels, mixed.sets)) == pixels(one) | pixels(other)
    assert pixels(mixed.test) >= pixels(make_splits(one, seed=seed).test)


@given(st.integers(10, 60), st.integers(0, 9))
def test_sets_without_copies_are_split_by_rank(count: int, seed: int) -> None:
    """As they were before copies were looked for, so that recorded results stay."""
    labels = torch.arange(count) % 3
    splits = make_splits(set_of(torch.arange(count), labels), seed=seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    for label in range(3):
        mine = (labels == label).nonzero().flatten()
        ranked = mine[order[mine].argsort()].tolist()
        bounds = [math.floor(end * len(ranked) + 0.5) for end in (0.2, 0.76, 0.88)]
        for part, a, b in zip(
            (splits.test, splits.train, splits.search, splits.calibration),
            (0, *bounds),
            (*bounds, len(ranked)),
            strict=True,
        ):
            assert part.rows[part.labels == label].tolist() == sorted(ranked[a:b])


def test_files_and_folders_with_copies(tmp_path: Path) -> None:
    random = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    x, y = np.concatenate([random, random]), np.tile(np.arange(30) % 3, 2)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, classes=np.array(CLASSES))
    splits = load_data(tmp_path / "a.npz", seed=1)
    assert_disjoint(splits)
    assert sum(map(len, splits.sets)) == 60
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        place = tmp_path / "photos" / CLASSES[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    photos = load_data(tmp_path / "photos", size=8, seed=1)
    assert_disjoint(photos)
    assert sum(map(len, photos.sets)) == 60


def test_near_twins_are_counted_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.rand(60, 3, 12, 12, generator=generator) * 200
    train, test = shapes[:40].byte(), shapes[40:].byte()
    data = ImageSet.from_arrays(train, torch.zeros(40, dtype=torch.int64), ("a",))
    labels = torch.zeros(20, dtype=torch.int64)
    assert near_twins(data, ImageSet.from_arrays(test, labels, ("a",))) == 0
    noise = torch.randn(5, 3, 12, 12, generator=generator)
    test[:5] = (0.8 * train[:5] + 30 + noise).clamp(0, 255).byte()
    test[5] = 77
    assert near_twins(data, ImageSet.from_arrays(test, labels, ("a",))) == 5
    floats = ImageSet.from_arrays(test / 255, labels, ("a",))
    assert near_twins(data, floats) == 5


@given(doubled(), doubled(), st.integers(0, 9))
def test_what_one_model_has_seen_tells_nothing_about_another(
    one: ImageSet, other: ImageSet, seed: int
) -> None:
    strong, weak = make_splits(one, seed=seed), make_splits(other, seed=seed)
    trained = pixels(strong.train)
    pairs = ((weak.calibration, trained), (weak.test, trained | pixels(strong.search)))
    if any(
        {label for label, _ in labelled(part)}
        != {label for label, image in labelled(part) if image not in seen}
        for part, seen in pairs
    ):
        with pytest.raises(DataError, match=r"class .* are training images"):
            unseen(weak, strong)
        return
    found = unseen(weak, strong)
    assert found.train is weak.train
    assert found.search is weak.search
    for part, (whole, seen) in zip((found.calibration, found.test), pairs, strict=True):
        assert pixels(part) == pixels(whole) - seen
        if not pixels(whole) & seen:
            assert part is whole


@pytest.fixture
def shared(tmp_path: Path) -> Run:
    """A run whose two sources share 90 images, which are at other places in each."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 256, (120, 8, 8, 1), dtype=np.uint8), np.arange(120) % 3
    chosen = generator.permutation(120)[:90]
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, classes=np.array(CLASSES))
    np.savez(tmp_path / "b.npz", x_train=x[chosen], y_train=y[chosen], classes=np.array(CLASSES))
    recipe = load_recipe("demo").adapted(targets=["ant"]).model_dump()
    recipe["strong_data"]["source"] = str(tmp_path / "a.npz")
    recipe["weak_data"]["source"] = str(tmp_path / "b.npz")
    recipe["weak"]["target_images"] = None
    return Run(Recipe.model_validate(recipe), tmp_path / "run", {})


def test_a_run_measures_on_no_image_that_its_strong_model_has_seen(shared: Run) -> None:
    strong, weak, settings = shared.strong_data, shared.weak_data("ant"), shared.recipe.weak_data
    trained = pixels(strong.train)
    alone = load_data(settings.source, shares=settings.shares, seed=shared.recipe.seed)
    for before, after, seen in (
        (alone.test, weak.test, trained | pixels(strong.search)),
        (alone.calibration, weak.calibration, trained),
    ):
        assert pixels(before) & seen
        assert pixels(after) == pixels(before) - seen
    left_out = sum(map(len, alone.sets)) - sum(map(len, weak.sets))
    (remark,) = (line for line in shared.data.remarks() if "left out" in line)
    assert f"b.npz: left out {left_out} images" in remark


def test_a_run_on_one_source_keeps_its_images(shared: Run) -> None:
    recipe = shared.recipe.model_copy(update={"weak_data": shared.recipe.strong_data})
    run = Run(recipe, shared.folder, {})
    shares = recipe.weak_data.shares
    alone = load_data(recipe.weak_data.source, shares=shares, seed=recipe.seed)
    for part, whole in zip(run.weak_data("ant").sets, alone.sets, strict=True):
        assert part.rows.tolist() == whole.rows.tolist()
    assert run.data.remarks() == []


def test_run_tells_of_shared_images_and_of_near_twins(shared: Run, tmp_path: Path) -> None:
    found = dict(np.load(tmp_path / "b.npz"))
    np.savez(tmp_path / "brighter.npz", **{**found, "x_train": found["x_train"] // 2 + 40})
    for weak, told in (("b", "images for calibration or test that"), ("brighter", "")):
        recipe = resources.files("cnnsplitter").joinpath("recipes/demo.toml").read_text()
        for name in ("a", weak):
            recipe = recipe.replace('"digits"', f"'{tmp_path / name}.npz'", 1)
        recipe = re.sub(r"targets = .*", 'targets = ["ant"]', recipe)
        recipe = re.sub(r"target_images = .*", "", recipe)
        (tmp_path / "recipe.toml").write_text(recipe)
        done = call("run", tmp_path / "recipe.toml", "--dry-run", "--out", tmp_path / "run")
        assert done.code == 0, done.err
        assert f"{weak}.npz: " in done.err
        assert (told or "test images look nearly like a training image") in done.err


def test_the_demonstration_keeps_all_its_images() -> None:
    """Its two models share out one set in different ways."""
    run = Run(load_recipe("demo"), Path("none"), {})
    settings = run.recipe.weak_data
    alone = load_data(settings.source, shares=settings.shares, seed=run.recipe.seed)
    for part, whole in zip(run.weak_data("8").sets[1:], alone.sets[1:], strict=True):
        assert part.rows.tolist() == whole.rows.tolist()
