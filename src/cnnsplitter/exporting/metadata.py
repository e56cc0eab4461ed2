"""The metadata of an ONNX file, read past its network, of which a file may claim any size."""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import IO

_METADATA = 14
"""Number of ``metadata_props`` among the fields of a ``ModelProto`` (onnx.proto)."""
_KEY, _VALUE = 1, 2
_MOST_FIELDS = 10_000
_MOST_BYTES = 16_000_000
_VARINT, _LENGTH = 0, 2
_SIZES = {1: 8, 5: 4}
"""Of a field of such a wire type, see the encoding of protocol buffers."""


def read_metadata(path: Path, key: str) -> str | None:
    """Return a value of the metadata of an ONNX file, or None if it has no such key.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no protocol buffer, is cut short, or its metadata are too large to be
            ours.
    """
    with path.open("rb") as file:
        for number, size in _fields(file, os.fstat(file.fileno()).st_size):
            if number == _METADATA:
                if size > _MOST_BYTES:
                    raise ValueError(f"metadata of {size} bytes")
                entry = _strings(file.read(size))
                if entry.get(_KEY) == key.encode():
                    return entry.get(_VALUE, b"").decode()
    return None


def _strings(message: bytes) -> dict[int, bytes]:
    file = BytesIO(message)
    return {number: file.read(size) for number, size in _fields(file, len(message))}


def _fields(file: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Yield number and size of each field of a message, with the file at its value."""
    for _ in range(_MOST_FIELDS):
        if file.tell() >= end:
            return
        tag = _varint(file)
        kind = tag & 7
        if kind == _VARINT:
            _varint(file)
            continue
        if kind != _LENGTH and kind not in _SIZES:
            raise ValueError(f"a field of the unknown type {kind}")
        size = _varint(file) if kind == _LENGTH else _SIZES[kind]
        start = file.tell()
        if start + size > end:
            raise ValueError("cut short")
        yield tag >> 3, size
        file.seek(start + size)
    raise ValueError(f"more than {_MOST_FIELDS} fields")


def _varint(file: IO[bytes]) -> int:
    """Read a number of seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut short")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("a number of more than 64 bits")
