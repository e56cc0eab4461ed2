"""Image folders: ``train/CLASS/*`` and, where there is an official test set, ``test/CLASS/*``."""

from collections.abc import Iterable
from pathlib import Path

import torch

from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.photos import SUFFIXES, PhotoImages, is_whole
from cnnsplitter.data.stores import ConcatImages, Images
from cnnsplitter.errors import DataError, SettingsError
from cnnsplitter.progress import Progress, Step, silent

DEFAULT_SIZE = 64


def load_folder(
    root: Path, *, size: int = DEFAULT_SIZE, channels: int = 3, progress: Progress = silent
) -> tuple[ImageSet, ImageSet | None]:
    """Open the training set and, where ``root`` has a ``test`` folder, the test set.

    The classes are the sorted names of the folders in ``train`` (in ``root`` itself, if there is
    neither ``train`` nor ``test``); an empty one keeps its index. Hidden files and files that are
    no images by their suffix are ignored. Broken image files are left out and listed by
    ``broken_files``.

    Args:
        root: The folder.
        size: Height and width in pixels: the shorter side is resized to it, the longer one cropped.
        channels: 3 for RGB, 1 for grey.
        progress: Called for each class folder.

    Raises:
        DataError: If there are no class folders or no images, a class has only broken files, or
            ``test`` has a class that ``train`` lacks.
        SettingsError: If ``size`` or ``channels`` cannot be used.
    """
    if size < 1 or channels not in (1, 3):
        raise SettingsError(
            f"size must be at least 1 and channels 1 or 3, got size {size}, channels {channels}"
        )
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    train, test = root / "train", root / "test"
    if not train.is_dir():
        if test.is_dir():
            raise DataError(f"{root}: has a test folder but no train folder; add train/CLASS/*")
        train = root
    classes = _class_names(train)
    if test.is_dir():
        foreign = [name for name in _class_names(test) if name not in classes]
        if foreign:
            raise DataError(f"{test}: class {foreign[0]!r} is not in {train}; add or rename it")
        return (
            _open(train, root.name, classes, size, channels, progress),
            _open(test, root.name, classes, size, channels, progress),
        )
    return _open(train, root.name, classes, size, channels, progress), None


def broken_files(stores: Iterable[Images]) -> tuple[Path, ...]:
    """Return the image files that were found broken on opening any of the ``stores``, sorted."""
    found: set[Path] = set()
    for store in stores:
        if isinstance(store, ConcatImages):
            found.update(broken_files(store.parts))
        elif isinstance(store, PhotoImages):
            found.update(store.broken)
    return tuple(sorted(found))


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise DataError(f"{folder}: has no class folders; put the images into {folder}/CLASS/")
    return tuple(names)


def _open(
    folder: Path, root: str, classes: tuple[str, ...], size: int, channels: int, progress: Progress
) -> ImageSet:
    whole: list[Path] = []
    broken: list[Path] = []
    labels: list[int] = []
    for index, name in enumerate(classes):
        paths = _image_files(folder / name)
        good = [path for path in paths if is_whole(path)]
        bad = sorted(set(paths) - set(good))
        if bad and not good:
            raise DataError(
                f"{folder / name}: all {len(bad)} images are broken, the first is {bad[0].name}; "
                "mend them or remove the class"
            )
        whole += good
        broken += bad
        labels += [index] * len(good)
        progress(Step(f"open {folder}", index + 1, len(classes), {"broken": len(broken)}))
    if not whole:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(SUFFIXES))}) in its classes")
    name = folder.name if folder.name == root else f"{root}/{folder.name}"
    store = PhotoImages(name, tuple(whole), size, channels, tuple(broken))
    return ImageSet.whole(store, torch.tensor(labels), classes)


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )
