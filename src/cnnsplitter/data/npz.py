"""Image sets in ``.npz`` files, streamed from disk where the file is not compressed."""

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from cnnsplitter.data.arrays import to_labels
from cnnsplitter.data.images import ImageSet
from cnnsplitter.data.stores import ArrayImages
from cnnsplitter.errors import DataError
from cnnsplitter.reading import no_such_file, require_regular

_END = struct.Struct("<4s8xL4x2x")  # of a zip file: its mark, and the size of its list of members
_MOST_LISTED = 2**20
_MOST_UNPACKED = 2**28
_MOST_RATIO = 50
_MOST_NAMED = 2**24
_LOCAL_HEADER = struct.Struct("<26xHH")  # its last two fields: lengths of name and extra field


def load_npz(path: Path) -> tuple[ImageSet, ImageSet | None]:
    """Open the training set and, where the file has one, the test set.

    The file holds ``x_train`` (uint8 or floating [N, H, W] or [N, H, W, C]), ``y_train`` (whole
    numbers [N]) and ``classes`` (text); ``x_test`` and ``y_test`` may be absent. Images written by
    ``numpy.savez`` are memory-mapped, those of ``numpy.savez_compressed`` are loaded.

    Raises:
        DataError: If the file or an array in it cannot be used; names file and key.
    """
    with _open(path) as archive:
        classes = _classes(path, archive)
        train = _image_set(path, archive, "train", classes)
        has_test = {"x_test.npy", "y_test.npy"} & set(archive.namelist())
        return train, _image_set(path, archive, "test", classes) if has_test else None


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        require_regular(path)
        require_few_members(path)
        archive = zipfile.ZipFile(path)
    except FileNotFoundError as error:
        raise DataError(no_such_file(path)) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # zipfile raises many types on damaged files
        raise DataError(f"{path}: not an npz file, or cut short; copy or save it anew") from error
    with archive:
        yield archive


def require_few_members(path: Path) -> None:
    """Refuse a list of members that takes long to read; an npz file has a handful."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2**16 - _END.size, 0))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at >= 0 and len(tail) >= at + _END.size:
        _, size = _END.unpack_from(tail, at)
        if size > _MOST_LISTED:
            raise zipfile.BadZipFile("too many members")


def _image_set(path: Path, archive: zipfile.ZipFile, part: str, names: tuple[str, ...]) -> ImageSet:
    images = _read(path, archive, f"x_{part}", mapped=True)
    store = ArrayImages(f"{path.name}:x_{part}", images)
    _require_as_many(path, archive, part, len(store))
    whole = to_labels(_read(path, archive, f"y_{part}"), f"{path.name}:y_{part}")
    if not 0 <= int(whole.min()) <= int(whole.max()) < len(names):
        raise DataError(
            f"{path.name}:y_{part} holds labels {int(whole.min())} to {int(whole.max())} "
            f"but classes names {len(names)} classes"
        )
    return ImageSet.whole(store, whole, names)


def _require_as_many(path: Path, archive: zipfile.ZipFile, part: str, count: int) -> None:
    """Raise ``DataError`` unless there is a label for each image, before labels are unpacked."""
    shape = _shape(path, archive, f"y_{part}")
    if len(shape) == 1 and shape[0] != count:
        raise DataError(
            f"{path.name}: x_{part} holds {count} images but y_{part} {shape[0]} labels"
        )
    if math.prod(shape) > count:
        raise DataError(f"{path.name}:y_{part}: labels must be [N], got shape {shape}")


def _classes(path: Path, archive: zipfile.ZipFile) -> tuple[str, ...]:
    size = sum(info.file_size for info in archive.infolist() if info.filename == "classes.npy")
    if size > _MOST_NAMED:
        raise DataError(f"{path.name}:classes has {size:,} bytes, more than class names can have")
    names = _read(path, archive, "classes")
    if names.ndim != 1 or names.dtype.kind != "U" or not names.size:
        raise DataError(
            f"{path.name}:classes must be a list of names, got {names.dtype} of shape {names.shape}"
        )
    if len(set(names.tolist())) != len(names):
        raise DataError(f"{path.name}:classes names a class twice; class names must differ")
    return tuple(names.tolist())


def _read(path: Path, archive: zipfile.ZipFile, key: str, *, mapped: bool = False) -> NDArray[Any]:
    where = f"{path.name}:{key}"
    info = _member(path, archive, key)
    with _told(where):
        if mapped and info.compress_type == zipfile.ZIP_STORED:
            return _map(path, archive, info)
        _require_no_bomb(where, info)
        _header(archive, info)
        with archive.open(info) as member:
            return npy.read_array(member, allow_pickle=False)


def _shape(path: Path, archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    info = _member(path, archive, key)
    with _told(f"{path.name}:{key}"):
        return tuple(_header(archive, info)[0])


def _member(path: Path, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    if f"{key}.npy" not in archive.namelist():
        present = ", ".join(sorted(n.removesuffix(".npy") for n in archive.namelist())) or "nothing"
        raise DataError(f"{path.name}:{key} is missing; the file holds {present}")
    return archive.getinfo(f"{key}.npy")


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Raise what goes wrong while an array is read as ``DataError`` that names it."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        if "Object arrays" in str(error):
            raise DataError(f"{where} holds Python objects; save numbers or text") from error
        raise DataError(f"{where} is not a whole array; save it anew") from error
    except MemoryError as error:
        raise DataError(f"{where} does not fit into memory; save it with numpy.savez") from error
    except Exception as error:  # zipfile and its decompressors raise many types on damaged files
        raise DataError(f"{where} is damaged; copy or save the file anew") from error


def _require_no_bomb(where: str, info: zipfile.ZipInfo) -> None:
    if info.file_size > max(_MOST_UNPACKED, _MOST_RATIO * info.compress_size):
        raise DataError(
            f"{where} unpacks to {info.file_size:,} bytes, more than {_MOST_RATIO} times its size; "
            "save it with numpy.savez if it is meant to"
        )


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[Any, bool, Any, int]:
    """Return shape, order, type and size of the header, which must fit the size of the member."""
    with archive.open(info) as member:
        major, _ = npy.read_magic(member)
        read_header = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
        shape, column_major, dtype = read_header(member)
        size = member.tell()
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be read")
    if min(shape, default=0) < 0 or size + dtype.itemsize * math.prod(shape) != info.file_size:
        raise ValueError("the header disagrees with the size")
    return shape, column_major, dtype, size


def _map(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    shape, column_major, dtype, header_size = _header(archive, info)
    if 0 in shape:
        return np.empty(shape, dtype)
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_size, extra_size = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        start = file.tell() + name_size + extra_size + header_size
    order: Literal["C", "F"] = "F" if column_major else "C"
    return np.memmap(path, dtype, "r", start, shape, order)
