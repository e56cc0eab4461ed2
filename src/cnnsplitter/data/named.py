"""Data sets by name: the handwritten digits of scikit-learn, and five through torchvision."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cnnsplitter.data.images import ImageSet
from cnnsplitter.errors import DataError, require_known
from cnnsplitter.extras import require_extra

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
DEFAULT_ROOT = Path.home() / ".cache" / "cnnsplitter"


@dataclass(frozen=True)
class _TorchvisionSet:
    type_name: str
    labels: str = "targets"
    channels_first: bool = False
    classes: tuple[str, ...] | None = None  # None takes torchvision's names

    def arguments(self, part: str) -> dict[str, Any]:
        return {"split": part} if self.type_name == "SVHN" else {"train": part == "train"}


_FASHION = "t-shirt trouser pullover dress coat sandal shirt sneaker bag ankle-boot"
_TORCHVISION = {
    "cifar10": _TorchvisionSet("CIFAR10"),
    "cifar100": _TorchvisionSet("CIFAR100"),
    "svhn": _TorchvisionSet("SVHN", "labels", channels_first=True, classes=DIGIT_NAMES),
    "mnist": _TorchvisionSet("MNIST", classes=DIGIT_NAMES),
    # torchvision's "T-shirt/top" cannot be part of a file name.
    "fashion-mnist": _TorchvisionSet("FashionMNIST", classes=tuple(_FASHION.split())),
}
NAMED_SETS = ("digits", *_TORCHVISION)


def load_named(
    name: str, *, root: Path | None = None, download: bool = True
) -> tuple[ImageSet, ImageSet | None]:
    """Return the training set and the official test set, or None where there is none (digits).

    Args:
        name: One of ``NAMED_SETS``.
        root: Folder of the torchvision files; None takes ``.cache/cnnsplitter`` of the home folder.
        download: Fetch the files if they are not there.

    Raises:
        SettingsError: If the name is unknown, or torchvision cannot be imported.
        DataError: If the files are missing, broken or unreachable.
    """
    require_known("data set", name, NAMED_SETS)
    if name == "digits":
        return _digits(), None
    root = root or DEFAULT_ROOT
    return _torchvision(name, "train", root, download), _torchvision(name, "test", root, download)


def _digits() -> ImageSet:
    table = _digits_table()
    # 17 grey levels, 0 to 16.
    pixels = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return ImageSet.from_arrays(pixels, table[:, -1], DIGIT_NAMES, "digits")


def _digits_table() -> np.ndarray[Any, Any]:
    """Return int64[images, pixels and label] from scikit-learn's file, which imports nothing."""
    package = find_spec("sklearn")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int64)


def _torchvision(name: str, part: str, root: Path, download: bool) -> ImageSet:
    known = _TORCHVISION[name]
    kind = _torchvision_type(known.type_name)
    try:
        data = kind(root, download=download, **known.arguments(part))
    # ValueError and AssertionError: damaged idx files, which have no checksum.
    except (RuntimeError, OSError, ValueError, AssertionError) as error:
        hint = "check the connection and the folder" if download else "allow download=True"
        raise DataError(f"{name}: not found whole in {root} ({error}); {hint}") from error
    pixels = np.asarray(data.data)
    if known.channels_first:
        pixels = pixels.transpose(0, 2, 3, 1)
    return ImageSet.from_arrays(
        pixels, getattr(data, known.labels), known.classes or tuple(data.classes), f"{name}:{part}"
    )


def _torchvision_type(type_name: str) -> Callable[..., Any]:
    require_extra("torchvision", "torchvision.datasets")
    from torchvision import datasets

    kind: Callable[..., Any] = getattr(datasets, type_name)
    return kind
