"""Opening files that nobody vouches for: regular ones, and no more of them than fits."""

import difflib
import errno
import json
import os
import re
import stat
import tomllib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any

from cnnsplitter.errors import SettingsError

MOST_TEXT = 2**25
"""Bytes of a text that are read at most."""
MOST_VALUES = 1_500_000
"""Values of a JSON text that are parsed at most; each takes up to some hundred bytes."""
_MOST_SETTINGS = 2**18
_MOST_DOTS = 200
_MOST_NAMES = 1000
_MOST_HEADER = 2**26
_LONG_LIST = re.compile(rb'[^\\]"\s*:\s*\[[^]"]{1000,}')
MOST_TENSORS = 40_000
"""Of a file."""


def require_regular(path: Path) -> None:
    """Raise ``OSError`` unless ``path`` is a regular file, or a link to one.

    A device or a pipe has no end, or none that comes soon.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def open_plain(path: Path) -> IO[bytes]:
    """Open a file to read it and append to it; it is made if need be.

    A link or a pipe in its place may have been put there to have us write elsewhere, or wait.

    Raises:
        OSError: It cannot be opened, or is no plain file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    # Windows has neither.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"{path.name} is a link; remove it", str(path))
    file = os.fdopen(os.open(path, flags, 0o666), "ab+")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, f"{path.name} is no plain file; remove it", str(path))
    return file


def read_text(path: Path, *, most: int = MOST_TEXT) -> str:
    """Return a file of UTF-8 text of at most ``most`` bytes.

    Raises:
        OSError: The file is missing, no regular one, or larger.
        ValueError: It holds no text.
    """
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))
    return content.decode()


def read_end(path: Path, *, most: int) -> str:
    """Return the last ``most`` bytes of a file as text, whatever they are.

    Raises:
        OSError: The file is missing or no regular one.
    """
    require_regular(path)
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(most).decode(errors="replace")


def parse_json(text: str) -> Any:
    """Return the values of a JSON text.

    Raises:
        ValueError: It is no JSON, is nested too deep, or holds more than ``MOST_VALUES`` values.
    """
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def no_such_file(path: Path, kind: str = "file") -> str:
    """Return what to say of a path that is not there: with the nearest name that is, if any."""
    hint = ""
    with suppress(OSError, ValueError):
        missing, folder = path, path.parent
        while not folder.exists() and folder != folder.parent:
            missing, folder = folder, folder.parent
        names = sorted(entry.name for entry in islice(os.scandir(folder), _MOST_NAMES))
        nearest = difflib.get_close_matches(missing.name, names, n=1)
        hint = "".join(f"; did you mean {str(folder / name)!r}?" for name in nearest)
    return f"{path}: no such {kind}{hint}"


def read_toml(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file.

    Raises:
        SettingsError: The file is missing, no TOML, or too large for settings.
    """
    try:
        text = read_text(path, most=_MOST_SETTINGS)
        # The parser takes the square of the parts of a key, which is in one line.
        if any(line.count(".") > _MOST_DOTS for line in text.split("\n")):
            raise ValueError(f"a line of more than {_MOST_DOTS} dots")
        values = tomllib.loads(text)
        _require_short_numbers(values)
        return values
    except FileNotFoundError as error:
        raise SettingsError(no_such_file(path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: is not valid TOML: {error}") from error


def _require_short_numbers(values: dict[str, Any]) -> None:
    """Raise ``ValueError`` with the key of a whole number of more than 64 bits, TOML's most."""
    found: list[tuple[str, Any]] = list(values.items())
    while found:
        key, value = found.pop()
        if isinstance(value, dict):
            found += [(f"{key}.{name}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            found += [(key, inner) for inner in value]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"key {key!r} is a number of more than 64 bits")


def require_modest_header(path: Path) -> None:
    """Raise ``OSError`` unless the header of a safetensors file is one that can be read at once.

    Whether it is right is for the library to say.
    """
    require_regular(path)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _MOST_HEADER:
            raise OSError(errno.EFBIG, f"header of {size} bytes", str(path))
        header = file.read(size)
    # Each tensor is one JSON object.
    if header.count(b"{") > MOST_TENSORS:
        raise OSError(errno.EFBIG, f"more than {MOST_TENSORS} tensors", str(path))
    if _LONG_LIST.search(header):
        raise OSError(errno.EFBIG, "a tensor of hundreds of axes", str(path))
