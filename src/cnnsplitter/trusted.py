"""The one place where a pickle may run what it holds, because a person said so for this file."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cnnsplitter.errors import StorageError

Told = Callable[[Path, str], None]
"""Is told the path and the SHA-256 of a pickle just before it is run."""


def load_trusted(path: Path, told: Told) -> Any:
    """Unpickle a file of PyTorch, whatever code that runs.

    Args:
        path: The file.
        told: Is told what is run: of these very bytes, not of what the path may lead to later.

    Raises:
        StorageError: The file cannot be read or is no pickle of PyTorch.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror})") from error
    told(path, hashlib.sha256(content).hexdigest())
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle runs anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise StorageError(f"{path}: cannot be unpickled ({reason}); get it anew") from error
