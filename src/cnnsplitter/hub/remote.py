"""Pushing folders to the hub and pulling models from it, through ``huggingface_hub``."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnnsplitter import __version__
from cnnsplitter.errors import HubError, SettingsError, StorageError, first_line
from cnnsplitter.extras import require_extra
from cnnsplitter.files import replacing, require_new
from cnnsplitter.hub.folder import CARD, CONFIG, MODEL, public_details, save_folder
from cnnsplitter.storage.saving import describe, load
from cnnsplitter.storage.unpacking import Builder

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SENT = (MODEL, CONFIG, CARD, "LICENSE", "*.onnx", "*.pt2")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Pushed:
    """What was sent to the hub.

    Attributes:
        url: Of the repository.
        commit: The commit that holds the files.
        files: Their names.
    """

    url: str
    commit: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Pulled:
    """What was fetched from the hub.

    Attributes:
        path: The file.
        commit: The commit that it is from; as a revision it gives the same file for ever.
        kind: What it holds: classifier, class-module, subtask, composed or patched.
    """

    path: Path
    commit: str
    kind: str


def push_to_hub(
    source: str | Path,
    repository: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    license: str = "unknown",
    build: Builder | None = None,
) -> Pushed:
    """Send a model to the hub in one commit; the repository and the branch are made if need be.

    Of a folder its model, ``config.json``, ``README.md``, ``LICENSE`` and exported files are sent,
    nothing else. For a file such a folder is made first.

    Args:
        source: A folder that ``save_folder`` wrote, or a file that ``save`` wrote.
        repository: ``OWNER/NAME``.
        revision: The branch; by default ``main``.
        private: Whether a new repository is private; None leaves it to the owner's default.
        license: Of the weights, for the card of a file; a folder has its own.
        build: See ``load``.

    Raises:
        SettingsError: The extra ``hub`` is not installed, or the repository cannot be named so.
        StorageError: ``source`` is not a model of this package, or its model names the folder that
            images lay in.
        HubError: The hub cannot be reached or refuses.
    """
    require_extra("hub", "huggingface_hub")
    source = Path(source)
    if source.is_dir():
        return _push(source, repository, revision, private)
    title = repository.rpartition("/")[2]
    with tempfile.TemporaryDirectory() as folder:
        details = describe(source)["details"]
        save_folder(
            load(source, build=build), folder, details=details, title=title, license=license
        )
        return _push(Path(folder), repository, revision, private)


def pull_from_hub(
    repository: str, path: str | Path, *, revision: str | None = None, overwrite: bool = False
) -> Pulled:
    """Fetch the model of a repository to a file; read it with ``load``.

    Only ``model.safetensors`` is fetched, and nothing that strangers wrote is run: a file that
    ``describe`` refuses is not kept.

    Args:
        repository: ``OWNER/NAME``.
        path: The file to write.
        revision: A branch, tag or commit; by default ``main``.
        overwrite: Whether an existing file may be replaced.

    Raises:
        SettingsError: The extra ``hub`` is not installed, or no repository can be named so.
        HubError: The hub cannot be reached, refuses, or has no such model.
        StorageError: The file exists, cannot be written, or is not a model of this package.
    """
    require_extra("hub", "huggingface_hub")
    path = Path(path)
    require_new(path, overwrite)
    with _hub_errors(repository, revision):
        cached = Path(_api().hf_hub_download(repository, MODEL, revision=revision))
    try:
        kind = describe(cached)["kind"]
    except StorageError as error:
        _forget(cached)
        reason = str(error).removeprefix(f"{cached}: ")
        raise StorageError(f"{repository}: not a model of cnnsplitter: {reason}") from error
    with replacing(path) as temporary:
        shutil.copyfile(cached, temporary)
    # The hub's cache keeps every file in a folder named by its commit.
    return Pulled(path, cached.parent.name, kind)


def _forget(cached: Path) -> None:
    """Remove a file from the hub's cache, where its name is a link to its content."""
    content = cached.resolve()
    cached.unlink(missing_ok=True)
    content.unlink(missing_ok=True)


def _push(folder: Path, repository: str, revision: str | None, private: bool | None) -> Pushed:
    details = describe(folder / MODEL)["details"]
    if details != public_details(details):
        raise StorageError(
            f"{folder / MODEL}: tells in which folder the images lay ({details['data']}); "
            "push the file that the folder was made of, or bundle that again"
        )
    files = sorted({file for pattern in _SENT for file in folder.glob(pattern) if file.is_file()})
    from huggingface_hub import CommitOperationAdd

    with _hub_errors(repository, revision):
        api = _api()
        url = api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(file.name, str(file)) for file in files],
            commit_message=f"Push with cnnsplitter {__version__}",
            revision=revision,
        )
    return Pushed(str(url), commit.oid, tuple(file.name for file in files))


def _api() -> "HfApi":
    """Return the hub's client; token and endpoint are its own affair."""
    from huggingface_hub import HfApi

    return HfApi(library_name="cnnsplitter", library_version=__version__)


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Iterator[None]:
    """Turn whatever the client raises into one line that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise SettingsError(f"{repository!r} names no repository; give OWNER/NAME") from error
    except errors.RevisionNotFoundError as error:
        raise HubError(f"{repository}: has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"{repository}: no such repository, or a private or gated one; to see those, {_LOG_IN}"
        ) from error
    except errors.RemoteEntryNotFoundError as error:
        raise HubError(f"{repository}: holds no {MODEL}; pull another one") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = _LOG_IN if status in (401, 403) else "try again later"
        raise HubError(f"{repository}: the hub refuses with status {status}; {hint}") from error
    except Exception as error:  # the client and its HTTP library raise many types
        chain = [error] if error.__cause__ is None else [error, error.__cause__]
        reason = " ".join(first_line(e) for e in chain)
        raise HubError(f"{repository}: the hub cannot be used ({reason})") from error
