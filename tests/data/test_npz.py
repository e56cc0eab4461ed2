import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from cnnsplitter.data import ArrayImages, ImageSet, load_npz
from cnnsplitter.errors import DataError

Arrays = dict[str, Any]


def arrays() -> Arrays:
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random.integers(0, 256, (3, 4, 5, 3), dtype=np.uint8),
        "y_test": np.array([2, 1, 0], dtype=np.uint8),
        "classes": np.array(["ant", "bee", "cow"]),
    }


def pixels(data: ImageSet | None) -> np.ndarray:
    assert data is not None
    return next(data.batches(999))[0].permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_both_sets_come_back_as_they_were_saved(tmp_path: Path, save: Callable[..., None]) -> None:
    saved = arrays()
    save(tmp_path / "a.npz", **saved)
    train, test = load_npz(tmp_path / "a.npz")
    assert (pixels(train) == saved["x_train"]).all()
    assert (pixels(test) == saved["x_test"]).all()
    assert train.labels.tolist() == saved["y_train"].tolist()
    assert train.classes == ("ant", "bee", "cow")
    assert train.images.name == "a.npz:x_train"
    assert isinstance(train.images, ArrayImages)
    assert isinstance(train.images.array, np.memmap) == (save is np.savez)


def test_a_mapped_file_is_never_written(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays())
    train, _ = load_npz(tmp_path / "a.npz")
    assert isinstance(train.images, ArrayImages)
    assert not train.images.array.flags.writeable
    before = (tmp_path / "a.npz").read_bytes()
    train.images.read(torch.arange(6)).zero_()
    assert (tmp_path / "a.npz").read_bytes() == before


def test_only_rows_that_are_read_take_memory(tmp_path: Path) -> None:
    # A sparse file: 64 GB that take no room on disk and would not fit into memory.
    path = tmp_path / "a.npz"
    shape = (1_000_000, 128, 128, 4)
    member = tmp_path / "x_train.npy"
    with member.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        header = file.tell()
    _write_sparse_npz(path, member.read_bytes(), header + int(np.prod(shape, dtype=np.int64)))
    train, _ = load_npz(path)
    assert len(train) == shape[0]
    assert train.images.read(torch.tensor([999_999, 0])).shape == (2, 4, 128, 128)
    path.unlink()


def _write_sparse_npz(path: Path, header: bytes, size: int) -> None:
    """Write the zip records by hand: zipfile would write every zero."""
    info = zipfile.ZipInfo("x_train.npy")
    info.file_size = info.compress_size = size
    info.CRC = info.header_offset = 0
    with path.open("wb") as raw, zipfile.ZipFile(raw, "w", allowZip64=True) as archive:
        raw.write(info.FileHeader(zip64=True))
        raw.write(header)
        raw.seek(size - len(header), os.SEEK_CUR)
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info
        archive.start_dir = raw.tell()
        for key, array in (
            ("y_train", np.arange(1_000_000) % 2),
            ("classes", np.array(["a", "b"])),
        ):
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, array)


@pytest.mark.parametrize("column_major", [False, True])
def test_grey_and_floating_images_and_column_major_order(
    tmp_path: Path, column_major: bool
) -> None:
    saved = arrays()
    grey = saved["x_train"][..., 0] / 255
    saved["x_train"] = np.asfortranarray(grey) if column_major else grey
    del saved["x_test"], saved["y_test"]
    np.savez(tmp_path / "a.npz", **saved)
    train, test = load_npz(tmp_path / "a.npz")
    assert test is None
    assert train.images.shape == (1, 4, 5)
    np.testing.assert_allclose(pixels(train)[..., 0], grey, rtol=1e-6)


def change(key: str, value: Any) -> Callable[[Arrays], None]:
    return lambda saved: saved.__setitem__(key, value)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda saved: saved.pop("x_train"), r"x_train is missing; the file holds classes, x_test"),
        (lambda saved: saved.pop("classes"), "classes is missing"),
        (lambda saved: saved.pop("y_test"), "y_test is missing"),
        (change("x_train", np.zeros((6, 4), np.uint8)), r"x_train: images must be \[N, H, W\]"),
        (change("x_train", np.zeros((0, 4, 4), np.uint8)), "x_train: holds no images"),
        (change("x_train", np.zeros((6, 4, 4), np.int32)), "x_train: images must be uint8"),
        (change("x_train", np.full((6, 4, 4), np.nan)), "x_train: image 0 holds NaN"),
        (change("x_train", np.array([None] * 6)), "x_train holds Python objects"),
        (change("y_train", np.array([None] * 6)), "y_train holds Python objects"),
        (change("y_train", np.arange(5) % 3), ".*x_train holds 6 images but y_train 5 labels"),
        (change("y_train", np.arange(6)), "y_train holds labels 0 to 5 but classes names 3"),
        (change("y_test", np.array([0, 1, -1])), "y_test holds labels -1 to 1"),
        (change("y_train", np.zeros((6, 1), int)), r"y_train: labels must be \[N\]"),
        (change("y_train", np.zeros(6)), "y_train: labels must be whole"),
        (change("classes", np.array([1, 2, 3])), "classes must be a list of names"),
        (change("classes", np.array(["a", "b", "a"])), "classes names a class twice"),
    ],
)
def test_errors_name_file_and_key(
    tmp_path: Path, damage: Callable[[Arrays], Any], words: str
) -> None:
    saved = arrays()
    damage(saved)
    np.savez(tmp_path / "a.npz", **saved)
    with pytest.raises(DataError, match=rf"^a\.npz:? ?{words}") as caught:
        load_npz(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_no_file_a_foreign_file_and_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=r"a\.npz: no such file"):
        load_npz(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_npz(tmp_path)
    np.savez(path, **arrays())
    whole = path.read_bytes()
    for damaged in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.npz: not an npz file, or cut short"):
            load_npz(path)


@pytest.mark.parametrize("key", ["x_train", "y_train"])
def test_an_array_whose_header_lies_is_refused(tmp_path: Path, key: str) -> None:
    np.savez(tmp_path / "good.npz", **arrays())
    with (
        zipfile.ZipFile(tmp_path / "good.npz") as good,
        zipfile.ZipFile(tmp_path / "a.npz", "w") as bad,
    ):
        for name in good.namelist():
            content = good.read(name)
            bad.writestr(name, content[:-3] if name == f"{key}.npy" else content)
    with pytest.raises(DataError, match=rf"^a\.npz:{key} is not a whole array"):
        load_npz(tmp_path / "a.npz")


def test_a_flipped_bit_in_a_compressed_array_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("x_train.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 250] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"^a\.npz:x_train is (damaged|not a whole array)"):
        load_npz(path)


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100-12", "fashion-mnist"])
def test_real_files_read_as_numpy_reads_them(name: str, part: str) -> None:
    folder = os.environ.get("CNNSPLITTER_DATA")
    if not folder:
        pytest.skip("CNNSPLITTER_DATA does not name a folder with the real npz files")
    path = Path(folder) / f"{name}.npz"
    data = load_npz(path)[part == "test"]
    assert data is not None
    some = data.sample(100, torch.Generator().manual_seed(0))
    with np.load(path, allow_pickle=False) as saved:
        expected = saved[f"x_{part}"][some.rows.numpy()]
        assert some.labels.tolist() == saved[f"y_{part}"][some.rows.numpy()].tolist()
    assert (pixels(some).reshape(expected.shape) == expected).all()


@pytest.mark.parametrize(
    ("key", "many", "words"),
    [
        ("y_train", np.zeros(2**27, np.uint8), "holds 6 images but y_train 134217728 labels"),
        ("y_train", np.zeros((2**27, 1), np.uint8), r"labels must be \[N\], got shape"),
        ("classes", np.array(["a"]).repeat(2**23), "classes has 33,554,560 bytes"),
    ],
)
def test_more_labels_or_names_than_images_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, many: np.ndarray, words: str
) -> None:
    np.savez_compressed(tmp_path / "a.npz", **{**arrays(), key: many})
    read = npy.read_array

    def small(file: Any, **options: Any) -> Any:
        found = read(file, **options)
        assert found.size < 1000
        return found

    monkeypatch.setattr(npy, "read_array", small)
    with pytest.raises(DataError, match=words):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["\ud800x", "a\0b"])
def test_class_names_that_no_file_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "a.npz", **{**arrays(), "classes": np.array([name, "bee", "cow"])})
    with pytest.raises(DataError, match="no text that a file can hold; rename"):
        load_npz(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pixels_too_large_for_single_precision_are_refused(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    save(tmp_path / "a.npz", **{**arrays(), "x_train": np.full((6, 4, 5, 3), 1e300)})
    with pytest.raises(DataError, match="image 0 holds NaN or infinite values"):
        load_npz(tmp_path / "a.npz")
