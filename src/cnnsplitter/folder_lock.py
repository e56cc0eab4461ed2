"""One process at a time in the folder of a run, or at one file that takes long to make."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from cnnsplitter.errors import StorageError
from cnnsplitter.reading import open_plain

try:
    import fcntl
except ImportError:  # Windows; there nothing is locked
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""Holds the process id of the run; it is gone when the run ends."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if need be, for the block.

    The system frees the lock of a process that is killed, so a stale file keeps nobody out.

    Raises:
        StorageError: Another process holds it; names its process id.
    """
    with _locked(folder / LOCK, folder, "runs in it"):
        yield


def holder_of(folder: Path) -> int | None:
    """Return the id of the living process of this machine that holds a folder, None without one."""
    path = folder / LOCK
    if fcntl is None or path.is_symlink() or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            process = int(file.read(20))
        os.kill(process, 0)
    except PermissionError:
        return process
    except (OSError, ValueError, OverflowError):
        return None
    return process if process > 0 else None


@contextmanager
def held_file(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file for the block; others in its folder may go on.

    Raises:
        StorageError: Another process makes it; names its process id.
    """
    with _locked(path.with_name(f".{path.name}{LOCK}"), path, "makes it"):
        yield


@contextmanager
def _locked(path: Path, what: Path, does: str) -> Iterator[None]:
    folder = path.parent
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _taken(path, what, does)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written ({error.strerror})") from error
    try:
        yield
    finally:
        # While it is locked, so that nobody can have taken it over.
        path.unlink(missing_ok=True)
        file.close()
        with suppress(OSError):  # as soon as one is not empty
            for place in made:
                place.rmdir()


def _taken(path: Path, what: Path, does: str) -> IO[bytes]:
    while True:
        file = open_plain(path)
        if not _lock(file):
            file.seek(0)
            holder = file.read(20).decode(errors="replace").strip() or "another"
            file.close()
            raise StorageError(
                f"{what}: process {holder} {does}; wait for its end or choose another --out"
            )
        if _is_still(path, file):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
            return file
        file.close()


def _lock(file: IO[bytes]) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Return whether the file was not removed by the run that held it before."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
