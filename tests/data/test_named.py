import hashlib
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

from cnnsplitter.data import NAMED_SETS, ImageSet, load_named
from cnnsplitter.errors import DataError, SettingsError

N = 20
RANDOM = np.random.default_rng(0)
LABELS = np.arange(N) % 10


def pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (N, *shape), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def dump(path: Path, content: dict[str, Any]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return md5(path)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write the pickled batches of CIFAR-10, each row 3 x 32 x 32."""
    from torchvision.datasets import CIFAR10

    images = pixels(3, 32, 32)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    parts = [*np.split(np.arange(N), 5), np.arange(N)]
    sums = [
        dump(
            root / CIFAR10.base_folder / name,
            {"data": images[part].reshape(-1, 3072), "labels": LABELS[part].tolist()},
        )
        for name, part in zip(names, parts, strict=True)
    ]
    meta = dump(root / CIFAR10.base_folder / "batches.meta", {"label_names": list("abcdefghij")})
    entries = [list(entry) for entry in zip(names, sums, strict=True)]
    monkeypatch.setattr(CIFAR10, "train_list", entries[:5])
    monkeypatch.setattr(CIFAR10, "test_list", entries[5:])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": meta})
    return images


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    from torchvision.datasets import CIFAR100

    images = pixels(3, 32, 32)
    content = {"data": images.reshape(N, -1), "fine_labels": LABELS.tolist()}
    folder = root / CIFAR100.base_folder
    for name, attribute in (("train", "train_list"), ("test", "test_list")):
        monkeypatch.setattr(CIFAR100, attribute, [[name, dump(folder / name, content)]])
    meta = dump(folder / "meta", {"fine_label_names": [f"c{i}" for i in range(100)]})
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": meta})
    return images


def write_svhn(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Write the MATLAB files of SVHN: [32, 32, 3, N], and the digit 0 has label 10."""
    from torchvision.datasets import SVHN

    images = pixels(3, 32, 32)
    matlab = {"X": images.transpose(2, 3, 1, 0), "y": np.where(LABELS == 0, 10, LABELS)[:, None]}
    table = {}
    for part in ("train", "test"):
        path = root / f"{part}_32x32.mat"
        scipy.io.savemat(path, matlab)
        table[part] = ["", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", table)
    return images


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, _: pytest.MonkeyPatch, folder: str = "MNIST") -> np.ndarray:
    images = pixels(28, 28)
    for part in ("train", "t10k"):
        idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images)
        idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", LABELS)
    return images[:, None]


def write_fashion(root: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    return write_mnist(root, monkeypatch, "FashionMNIST")


DIGITS = tuple("0123456789")
SETS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], np.ndarray], tuple[str, ...]]] = {
    "cifar10": (write_cifar10, tuple("abcdefghij")),
    "cifar100": (write_cifar100, tuple(f"c{i}" for i in range(100))),
    "svhn": (write_svhn, DIGITS),
    "mnist": (write_mnist, DIGITS),
    "fashion-mnist": (
        write_fashion,
        (
            "t-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle-boot",
        ),
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_sets_read_their_real_file_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write, classes = SETS[name]
    expected = write(tmp_path, monkeypatch)
    train, test = load_named(name, root=tmp_path, download=False)
    assert test is not None
    for part, data in (("train", train), ("test", test)):
        images, labels = next(data.batches(N))
        assert torch.equal(images, torch.from_numpy(expected))
        assert labels.tolist() == LABELS.tolist()
        assert data.classes == classes
        assert data.images.name == f"{name}:{part}"


def test_every_name_is_tested() -> None:
    assert set(NAMED_SETS) == {"digits", *SETS}


def test_digits_span_the_grey_levels_and_look_like_the_original() -> None:
    from sklearn.datasets import load_digits

    train, test = load_named("digits")
    assert test is None
    assert train.classes == DIGITS
    images, labels = next(train.batches(2000))
    assert images.shape == (1797, 1, 8, 8)
    assert (int(images.min()), int(images.max())) == (0, 255)
    original = torch.from_numpy(load_digits().images)
    assert torch.equal((images[:, 0] * 16.0 / 255).round().double(), original)
    assert labels.tolist() == load_digits().target.tolist()


def test_missing_and_damaged_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"^svhn: not found whole in .*allow download=True"):
        load_named("svhn", root=tmp_path, download=False)
    write_mnist(tmp_path, monkeypatch)
    for content in (b"\0\0\x08\x01\0\0\0\x05abc", b"\0"):
        (tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte").write_bytes(content)
        with pytest.raises(DataError, match=r"^mnist: not found whole"):
            load_named("mnist", root=tmp_path, download=False)


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    from torchvision.datasets import CIFAR10

    def fail(_: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"^cifar10: .*no route to host.*; check the connection"):
        load_named("cifar10", root=tmp_path)


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_a_torchvision_that_cannot_be_imported_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Broken:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.startswith("torchvision"):
                raise error("operator torchvision::nms does not exist")

    for module in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(SettingsError, match=r"pip install 'cnnsplitter\[torchvision\]'"):
        load_named("mnist", root=tmp_path)
    assert isinstance(load_named("digits")[0], ImageSet)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'cifar10'"):
        load_named("cifr10")
