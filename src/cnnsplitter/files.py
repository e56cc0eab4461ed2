"""Tensors and a JSON manifest in one safetensors file, written all at once or not at all."""

import glob
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cnnsplitter import __version__
from cnnsplitter.errors import StorageError
from cnnsplitter.reading import MOST_TENSORS, no_such_file, parse_json, require_modest_header

FORMAT = 1
"""Version of the manifest; a file with another one is refused."""

_KEY = "cnnsplitter"
_TEMPORARY = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path`` that takes its place when the block ends.

    The folder is made if need be. After an error in the block the temporary file is removed and
    ``path`` is as it was.

    Raises:
        StorageError: The folder cannot be made or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{_TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # Some writers make their files readable by the owner alone.
        temporary.chmod(mode)
        _flush_to_disk(temporary)
        os.replace(temporary, path)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_new(
    path: Path,
    overwrite: bool = False,
    *,
    remedy: str = "choose another name or allow to overwrite it",
) -> None:
    """Raise ``StorageError`` if ``path`` exists, unless it may be overwritten."""
    if path.exists() and not overwrite:
        raise StorageError(f"{path}: exists already; {remedy}")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``manifest`` to ``path``, replacing what is there.

    Args:
        path: The file; its folder is made if need be.
        tensors: Dense tensors of any device, layout or sharing; each is stored on its own.
        manifest: JSON values; the keys ``format`` and ``writer`` are added and so are not free.

    Raises:
        StorageError: The file cannot be written.
        ValueError: The manifest holds these keys or a number that JSON does not know.
        TypeError: The manifest holds something that is no JSON value.
    """
    known = {"format": FORMAT, "writer": __version__}
    for key in sorted(known.keys() & manifest):
        raise ValueError(f"the manifest key {key!r} is set by write_tensors")
    text = json.dumps({**known, **manifest}, allow_nan=False)
    # safetensors refuses tensors that share memory and strided ones, so each is copied.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    if len(copies) > MOST_TENSORS:
        raise StorageError(f"{path}: {len(copies)} tensors are too many for one file; save parts")
    with replacing(path) as temporary:
        try:
            save_file(copies, temporary, metadata={_KEY: text})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_tensors`` wrote.

    Returns:
        The tensors, on the CPU, and the manifest without its ``format`` and ``writer``.

    Raises:
        StorageError: The file is missing, truncated, foreign or of another format version.
    """
    with _opened(path) as file:
        manifest = _parse_manifest(path, (file.metadata() or {}).get(_KEY))
        return {name: file.get_tensor(name) for name in file.keys()}, manifest  # noqa: SIM118


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest alone, from the header of the file; errors are those of ``read_tensors``.

    The header tells how long the file must be, so that a truncated one is refused, too.
    """
    with _opened(path) as file:
        return _parse_manifest(path, (file.metadata() or {}).get(_KEY))


def read_shapes(path: Path) -> dict[str, list[int]]:
    """Read the shapes of the tensors from the header of the file; errors likewise."""
    with _opened(path) as file:
        names = file.keys()
        return {name: list(file.get_slice(name).get_shape()) for name in names}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        require_modest_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except FileNotFoundError as error:
        raise StorageError(no_such_file(path)) from error
    except StorageError:
        raise
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"{path}: truncated or no safetensors file ({error}); write it again"
        ) from error


def _parse_manifest(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise StorageError(f"{path}: not written by cnnsplitter (no {_KEY!r} in its header)")
    try:
        manifest = parse_json(text)
    except ValueError as error:
        raise StorageError(f"{path}: its manifest is broken ({error}); write it again") from error
    version = manifest.pop("format", None) if isinstance(manifest, dict) else None
    if version != FORMAT:
        is_newer = type(version) is int and version > FORMAT
        needed = f"install cnnsplitter {_writer_of(manifest)}" if is_newer else "write it again"
        raise StorageError(
            f"{path}: has format {version!r} but this cnnsplitter reads format {FORMAT}; {needed}"
        )
    writer = manifest.pop("writer", "")
    if not isinstance(writer, str):
        raise StorageError(f"{path}: its manifest is broken (writer {writer!r}); write it again")
    return dict(manifest)


def _writer_of(manifest: Mapping[str, Any]) -> str:
    """Return the version of this package that wrote a newer file, where it says so."""
    details = manifest.get("details")
    versions = details.get("versions") if isinstance(details, dict) else None
    detailed = versions.get("cnnsplitter") if isinstance(versions, dict) else None
    version = manifest.get("writer", detailed)
    is_version = isinstance(version, str) and re.fullmatch(r"\d[\w.+-]{0,40}", version)
    return f"{version} or newer" if is_version else "of the version that wrote it"


def is_temporary(path: Path) -> bool:
    """Return whether ``path`` is what a killed process may have left of a file half written."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def _remove_leftovers(path: Path) -> None:
    """Remove what processes that are no more have left of ``path``."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY}"):
        process = leftover.name.split(".")[-2]
        if process.isdecimal() and not _is_alive(int(process)):
            with suppress(OSError):
                leftover.unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # there, asking could end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
