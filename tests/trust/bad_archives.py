"""Bad archives: arrays of images and labels, pickles of weights, exported programs."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trust.spoiling import Poison, Spoil, write_anew


def npz(**changes: Any) -> Spoil:
    def spoil(path: Path) -> None:
        with np.load(path) as found:
            arrays = {name: found[name] for name in found.files}
        np.savez(path, **arrays | changes)

    return spoil


def member(
    name: str, content: bytes, *, times: int = 1, method: int = zipfile.ZIP_DEFLATED
) -> Spoil:
    """Replace a member by ``content`` over and over again."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as old:
            kept = {n: old.read(n) for n in old.namelist() if n != name}
        with zipfile.ZipFile(path, "w", method, compresslevel=1) as new:
            for n, value in kept.items():
                new.writestr(n, value)
            with new.open(name, "w", force_zip64=True) as file:
                for _ in range(times):
                    file.write(content)

    return spoil


def _npy(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"") -> bytes:
    file = io.BytesIO()
    facts = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, facts)
    return file.getvalue() + data


def bomb(path: Path) -> None:
    """A gigabyte of zeros in a megabyte."""
    head, size = _npy((2**20, 32, 32)), 2**20
    spoil = member("x_train.npy", bytes(size), times=1024)
    spoil(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("more.npy", head)


def many_members(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        for number in range(30_000):
            file.writestr(f"{number}", b"")


def _poisoned_array(path: Path, key: str) -> None:
    values = np.empty(6, dtype=object)
    values[:] = [Poison(path)] * 6
    with np.load(path) as found:
        arrays = {name: found[name] for name in found.files}
    np.savez(path, **arrays | {key: values})


ARRAYS: dict[str, Spoil] = {
    **{
        f"objects as {key}": lambda path, key=key: _poisoned_array(path, key)  # type: ignore[misc]
        for key in ("x_train", "y_train", "classes")
    },
    "negative labels": npz(y_train=np.full(6, -1)),
    "labels beyond the classes": npz(y_train=np.full(6, 2**62)),
    "labels that are no numbers": npz(y_train=np.full(6, np.nan)),
    "images that are no numbers": npz(x_train=np.full((6, 4, 4, 3), np.nan)),
    "dates as images": npz(x_train=np.zeros((6, 4, 4), "datetime64[s]")),
    "class named twice": npz(classes=np.array(["a", "a", "b"])),
    "no images": npz(x_train=np.zeros((0, 4, 4), np.uint8)),
    "images of 2^62": member("x_train.npy", _npy((2**31, 2**31))),
    "stored images of 2^62": member("x_train.npy", _npy((2**31, 2**31)), method=0),
    "shape that overflows": member("x_train.npy", _npy((2**32, 2**32)), method=0),
    "negative shape": member("x_train.npy", _npy((-1, -4, 4), data=bytes(16)), method=0),
    "labels of 2^60": member("y_train.npy", _npy((2**60,))),
    "header with code": member("y_train.npy", _npy((6,)).replace(b"|u1", b"{1}")),
    "bomb": bomb,
    "bomb of labels": member("y_train.npy", bytes(2**20), times=400),
    "many members": many_members,
    "member of ../": lambda path: _outside(path),
}


def _outside(path: Path) -> None:
    """A member that would lie elsewhere, in a file without images, so that it cannot be good."""
    member("../../a.npy", _npy((6,)))(path)
    with zipfile.ZipFile(path) as old:
        kept = {n: old.read(n) for n in old.namelist() if n != "x_train.npy"}
    with zipfile.ZipFile(path, "w") as new:
        for n, value in kept.items():
            new.writestr(n, value)


def poisoned(place: str, *, old: bool = False) -> Spoil:
    """Put poison among good weights."""

    def spoil(path: Path) -> None:
        weights = torch.load(path, weights_only=True)
        poison = Poison(path)
        content: Any = {
            "value": {**weights, "more": poison},
            "beside": {"state_dict": weights, "epoch": poison},
            "within": {"state_dict": {**weights, "more": [poison]}},
            "alone": poison,
        }[place]
        torch.save(content, path, _use_new_zipfile_serialization=not old)

    return spoil


def squeezed(path: Path) -> None:
    """A member that unpacks to a gigabyte."""
    with zipfile.ZipFile(path) as file:
        name = next(n for n in file.namelist() if "/data/" in n)
    member(name, bytes(2**20), times=1024)(path)


def _tensor(value: torch.Tensor) -> Spoil:
    def spoil(path: Path) -> None:
        weights = torch.load(path, weights_only=True)
        torch.save({**weights, "0.weight": value}, path)

    return spoil


PICKLES: dict[str, Spoil] = {
    **{f"poison {place}": poisoned(place) for place in ("value", "beside", "within", "alone")},
    "no numbers": _tensor(torch.full((2, 3, 1, 1), torch.nan)),
    "sparse": _tensor(torch.zeros(2, 3, 1, 1).to_sparse()),
    "empty": _tensor(torch.zeros(2, 3, 1, 1, device="meta")),
    "more than there is": _tensor(torch.zeros(1).expand(2**40)),
    "squeezed": squeezed,
}
OLD_PICKLES: dict[str, Spoil] = {
    f"poison {place}": poisoned(place, old=True) for place in ("value", "alone")
}


def _facts(content: bytes, *, times: int = 1) -> Spoil:
    """Replace what an exported program says about itself."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path) as file:
            name = next(n for n in file.namelist() if n.endswith("/extra/cnnsplitter.json"))
        member(name, content, times=times)(path)

    return spoil


PROGRAMS: dict[str, Spoil] = {
    "many members": many_members,
    "facts without end": _facts(bytes(2**20), times=64),
    "facts nested without end": _facts(b"[" * 10_000_000),
    "more facts than are parsed": _facts(b"[" + b"{}," * 5_000_000 + b"{}]"),
    "facts that are a list": _facts(b"[1]"),
    "facts that are no text": _facts(b"\xff\xfe\x00"),
    "facts with a huge number": _facts(b'{"a": ' + b"9" * 100_000 + b"}"),
}


def _before(content: bytes) -> Spoil:
    return lambda path: write_anew(path, content + path.read_bytes())


def _field(number: int, size: int, content: bytes) -> bytes:
    """A field of a protocol buffer, which may say that it is longer than it is."""
    return bytes([number << 3 | 2]) + _varint(size) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low]) if not rest else bytes([low | 128]) + _varint(rest)


_NODES = b"\x0a\x00" * 2**24
_ENTRY = _field(1, 11, b"cnnsplitter") + _field(2, 10, b"[" * 10)
ONNX: dict[str, Spoil] = {
    "nodes without end": _before(_field(7, len(_NODES), _NODES)),
    "fields without end": _before(b"\x08\x01" * 2**22),
    "metadata without end": _before(_field(14, 2**25, bytes(2**25))),
    "field beyond the end": _before(_field(7, 2**60, b"")),
    "field of 2^70 bytes": _before(_field(7, 2**70, b"")),
    "unknown type": _before(b"\x0f"),
    "other facts": _before(_field(14, len(_ENTRY), _ENTRY)),
}
