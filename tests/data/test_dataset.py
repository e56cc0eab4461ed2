from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from cnnsplitter.data import DatasetImages, ImageSet
from cnnsplitter.errors import DataError

PIXELS = torch.arange(3 * 3 * 4 * 5, dtype=torch.uint8).view(3, 3, 4, 5)
NAMES = ("cat", "dog")


class Listed(Dataset[Any]):
    def __init__(self, items: list[Any], **attributes: Any) -> None:
        self.items = items
        self.fetched = 0
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.fetched += 1
        return self.items[index]


def as_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    "convert",
    [lambda x: x, lambda x: x.permute(1, 2, 0).numpy(), as_pil],
    ids=["torch", "np", "PIL"],
)
def test_every_kind_of_image_gives_the_same_pixels(convert: Callable[[torch.Tensor], Any]) -> None:
    dataset = Listed([(convert(image), 1) for image in PIXELS])
    data = ImageSet.from_dataset(dataset, classes=NAMES)
    images, labels = next(data.batches(3))
    assert torch.equal(images, PIXELS)
    assert labels.tolist() == [1, 1, 1]
    assert data.images.shape == (3, 4, 5)
    assert data.images.name == "Listed"


def test_grey_images_get_a_channel_axis() -> None:
    for image in (PIXELS[0, 0], PIXELS[0, 0].numpy(), Image.fromarray(PIXELS[0, 0].numpy())):
        assert DatasetImages(Listed([(image, 0)]), "x").shape == (1, 4, 5)


def test_a_palette_image_is_read_in_its_colours() -> None:
    red = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    store = DatasetImages(Listed([(red, 0)]), "x")
    assert store.read(torch.tensor([0]))[0, :, 0, 0].tolist() == [255, 0, 0]


def test_float_images_become_float32() -> None:
    store = DatasetImages(Listed([(np.full((4, 4), 0.5), 0)]), "x")
    assert store.read(torch.tensor([0])).dtype == torch.float32
    assert store.read(torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 4, 4)


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_labels_come_from_the_attribute_without_reading_images(attribute: str) -> None:
    dataset = Listed([(PIXELS[0], 0), (PIXELS[1], 1)], **{attribute: [1, 0]}, classes=NAMES)
    data = ImageSet.from_dataset(dataset)
    assert data.labels.tolist() == [1, 0]
    assert data.classes == NAMES
    assert dataset.fetched == 1


def test_labels_come_from_one_pass_where_the_attribute_is_missing_or_raw() -> None:
    items = [(PIXELS[0], torch.tensor(1)), (PIXELS[1], np.int64(0)), (PIXELS[2], 1)]
    raw = Listed(items, targets=[0, 0, 0], target_transform=lambda label: label)
    for dataset in (Listed(items), raw, Subset(Listed(items), [0, 1, 2])):
        assert DatasetImages(dataset, "x").labels().tolist() == [1, 0, 1]


def test_a_tensor_dataset_works() -> None:
    data = ImageSet.from_dataset(TensorDataset(PIXELS, torch.tensor([0, 1, 0])), NAMES, "mine")
    assert data.counts().tolist() == [2, 1]
    assert data.images.name == "mine"


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "holds no images"),
        ([PIXELS[0]], r"item 0 is not a pair"),
        ([(PIXELS, 0)], "image 0 has shape"),
        ([(PIXELS[0].long(), 0)], "image 0: images must be uint8"),
        ([(PIXELS[0] / 0, 0)], "image 0 holds NaN"),
        ([(PIXELS[0], 0), (PIXELS[0, :, :2], 0)], r"image 1 is .*but the first is"),
        ([(PIXELS[0], 0), (PIXELS[0].float(), 0)], r"image 1 is torch.float32"),
        ([(PIXELS[0], torch.tensor([0, 1]))], "labels must be"),
        ([(PIXELS[0], 0.7)], "whole numbers"),
        ([(PIXELS[0], 2)], "label 2 is out of range; there are 2 classes"),
    ],
)
def test_items_that_do_not_fit_are_refused(items: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=f"^mine.*{words}"):
        ImageSet.from_dataset(Listed(items), NAMES, "mine")


def test_class_names_and_a_length_are_needed() -> None:
    with pytest.raises(DataError, match=r"^Listed: .*give classes="):
        ImageSet.from_dataset(Listed([(PIXELS[0], 0)]))

    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(DataError, match=r"^Stream: .*map-style"):
        ImageSet.from_dataset(Stream(), NAMES)
