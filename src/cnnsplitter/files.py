"""Tensors and a JSON manifest in one safetensors file, written all at once or not at all."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cnnsplitter.errors import StorageError
from cnnsplitter.reading import parse_json, require_modest_header

FORMAT = 1
"""Version of the manifest; a file with another one is refused."""

_KEY = "cnnsplitter"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path`` that takes its place when the block ends.

    The folder is made if need be. After an error in the block the temporary file is removed and
    ``path`` is as it was.

    Raises:
        StorageError: The folder cannot be made or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]) -> None:
    """Write ``tensors`` and ``manifest`` to ``path``, replacing what is there.

    Args:
        path: The file; its folder is made if need be.
        tensors: Dense tensors of any device, layout or sharing; each is stored on its own.
        manifest: JSON values; the key ``format`` is added and so is not free.

    Raises:
        StorageError: The file cannot be written.
        ValueError: The manifest holds ``format`` or a number that JSON does not know.
        TypeError: The manifest holds something that is no JSON value.
    """
    if "format" in manifest:
        raise ValueError("the manifest key 'format' is set by write_tensors")
    text = json.dumps({"format": FORMAT, **manifest}, allow_nan=False)
    # safetensors refuses tensors that share memory and strided ones, so each is copied.
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(copies, temporary, metadata={_KEY: text})
        except SafetensorError as error:
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``write_tensors`` wrote.

    Returns:
        The tensors, on the CPU, and the manifest without its ``format``.

    Raises:
        StorageError: The file is missing, truncated, foreign or of another format version.
    """
    try:
        require_modest_header(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            manifest = _parse_manifest(path, (file.metadata() or {}).get(_KEY))
            return {name: file.get_tensor(name) for name in file.keys()}, manifest  # noqa: SIM118
    except FileNotFoundError as error:
        raise StorageError(f"{path}: no such file") from error
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
        raise StorageError(
            f"{path}: has format {version!r} but this cnnsplitter reads format {FORMAT}; "
            "use the version that wrote it or write it again"
        )
    return dict(manifest)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
