from pathlib import Path

import pytest
import torch
from PIL import Image

from cnnsplitter.data import ConcatImages, PhotoImages, TensorImages, broken_files, load_folder
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.progress import Step


def photo(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (grey, grey, grey)).save(path)


def broken(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not an image")


def test_classes_are_the_sorted_folders_and_an_empty_one_keeps_its_index(tmp_path: Path) -> None:
    photo(tmp_path / "train/cat/1.png", 10)
    photo(tmp_path / "train/ape/2.PNG", 20)
    photo(tmp_path / "train/ape/1.jpeg", 30)
    (tmp_path / "train/bee").mkdir()
    photo(tmp_path / "test/cat/9.png", 40)
    train, test = load_folder(tmp_path, size=8)
    assert train.classes == ("ape", "bee", "cat")
    assert train.counts().tolist() == [2, 0, 1]
    images, labels = next(train.batches(9))
    assert images.shape == (3, 3, 8, 8)
    assert images[:, 0, 0, 0].tolist() == [30, 20, 10]
    assert labels.tolist() == [0, 0, 2]
    assert test is not None
    assert test.classes == train.classes
    assert test.labels.tolist() == [2]
    assert (train.images.name, test.images.name) == (
        f"{tmp_path.name}/train",
        f"{tmp_path.name}/test",
    )


def test_class_folders_without_a_train_folder_are_the_training_set(tmp_path: Path) -> None:
    photo(tmp_path / "cat/1.png")
    photo(tmp_path / "dog/1.png")
    train, test = load_folder(tmp_path, channels=1)
    assert test is None
    assert train.images.shape == (1, 64, 64)
    assert train.images.name == tmp_path.name
    assert train.classes == ("cat", "dog")


def test_hidden_and_foreign_files_are_ignored(tmp_path: Path) -> None:
    photo(tmp_path / "cat/1.png")
    for name in (".hidden.png", "._1.png", "notes.txt", "Thumbs.db"):
        broken(tmp_path / "cat" / name)
    (tmp_path / "cat/folder.png").mkdir()
    (tmp_path / ".git").mkdir()
    train, _ = load_folder(tmp_path)
    assert train.classes == ("cat",)
    assert len(train) == 1
    assert broken_files([train.images]) == ()


def test_broken_files_are_left_out_and_listed(tmp_path: Path) -> None:
    photo(tmp_path / "train/cat/1.png", 10)
    broken(tmp_path / "train/cat/2.jpg")
    photo(tmp_path / "train/dog/1.png", 20)
    broken(tmp_path / "train/dog/0.gif")
    photo(tmp_path / "test/dog/1.png")
    broken(tmp_path / "test/dog/2.png")
    steps: list[Step] = []
    train, test = load_folder(tmp_path, progress=steps.append)
    assert test is not None
    assert isinstance(train.images, PhotoImages)
    assert train.images.broken == (tmp_path / "train/cat/2.jpg", tmp_path / "train/dog/0.gif")
    assert next(train.batches(9))[0][:, 0, 0, 0].tolist() == [10, 20]
    both = ConcatImages((train.images, test.images))
    memory = TensorImages("memory", torch.zeros(1, 3, 64, 64))
    assert len(broken_files([both, train.images, memory])) == 3
    assert [(step.done, step.total, step.values["broken"]) for step in steps] == [
        (1, 2, 1),
        (2, 2, 2),
        (1, 2, 0),
        (2, 2, 1),
    ]


def test_a_class_that_loses_all_its_images_is_named(tmp_path: Path) -> None:
    photo(tmp_path / "cat/1.png")
    broken(tmp_path / "dog/1.png")
    broken(tmp_path / "dog/2.png")
    with pytest.raises(DataError, match=r"dog: all 2 images are broken, the first is 1\.png"):
        load_folder(tmp_path)


def test_a_test_class_unknown_in_training_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "train/cat/1.png")
    photo(tmp_path / "test/cta/1.png")
    with pytest.raises(DataError, match="class 'cta' is not in"):
        load_folder(tmp_path)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no class folders"):
        load_folder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match=r"holds no images \(\.bmp"):
        load_folder(tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="a test folder but no train folder"):
        load_folder(tmp_path)


@pytest.mark.parametrize(("size", "channels"), [(0, 3), (8, 2)])
def test_sizes_and_channels_that_make_no_sense_are_refused(
    tmp_path: Path, size: int, channels: int
) -> None:
    with pytest.raises(SettingsError, match=f"got size {size}, channels {channels}"):
        load_folder(tmp_path, size=size, channels=channels)
