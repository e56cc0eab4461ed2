"""Save and load models: one safetensors file with a JSON manifest in its header, never a pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cnnsplitter.errors import CnnSplitterError, StorageError
from cnnsplitter.files import read_manifest, read_tensors, require_new, write_tensors
from cnnsplitter.storage.compact import compress, expand
from cnnsplitter.storage.manifest import AnyFile
from cnnsplitter.storage.packing import Model, Tensors, pack
from cnnsplitter.storage.unpacking import Builder, unpack
from cnnsplitter.zoo import located

M = TypeVar("M")
_WAYS_OUT = {
    ("ClassModule", "Classifier"): "a class module scores one class; give the whole model",
    ("PatchedModel", "Classifier"): "take its patches away first, with unpatch",
    ("ComposedModel", "Classifier"): "give the model that it was split from",
    ("Classifier", "ClassModule"): "split it, and give one of its class modules",
    ("Subtask", "ClassModule"): "split the whole model, and give one of its class modules",
    ("PatchedModel", "ClassModule"): "give a file that split has written",
    ("ComposedModel", "ClassModule"): "give a file that split has written",
    ("Classifier", "PatchedModel"): "it has no patches; give a file that patch has written",
}
"""What to do, by the kind that a file holds and the kind that is wanted."""


def save(
    model: Model,
    path: str | Path,
    *,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    compact: bool = False,
) -> None:
    """Write ``model`` to one file, whole or not at all.

    Args:
        model: A classifier, class module, composed or patched model.
        path: The file, usually ``*.safetensors``.
        details: JSON values to keep with it: seed, settings, metrics.
        overwrite: Whether an existing file may be replaced.
        compact: Whether weights are rounded to 8 bits, a quarter of the size; see
            ``storage.compact``.

    Raises:
        StorageError: The file exists, cannot be written, or is given something it cannot hold.
    """
    path = Path(path)
    require_new(path, overwrite)
    try:
        kept = json.loads(json.dumps(dict(details or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise StorageError(f"{path}: details must be JSON values ({error})") from error
    manifest, tensors = pack(model, kept)
    _require_finite(path, tensors)
    kept_tensors = compress(tensors) if compact else tensors
    write_tensors(path, kept_tensors, manifest.model_dump(mode="json"))


def _require_finite(path: Path, tensors: Tensors) -> None:
    """Refuse what could not be read again."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StorageError(
                f"{path}: not written, as {name!r} holds NaN or infinite values; train it anew"
            )


def load(path: str | Path, *, build: Builder | None = None) -> Model:
    """Read what ``save`` wrote; the model gives the same outputs as the one that was saved.

    Args:
        path: The file, or ``zoo:NAME`` for one that comes with this package.
        build: Builds the full network of a part, for networks that are not this package's.

    Raises:
        StorageError: The file is missing, damaged, foreign, too new, or needs ``build``.
    """
    path = Path(path)
    tensors, manifest = _read(path)
    try:
        return unpack(manifest, tensors, build)
    except CnnSplitterError as error:
        raise StorageError(f"{path}: {error}") from error


def load_as(kind: type[M], path: str | Path, *, build: Builder | None = None) -> M:
    """Read a file that must hold a model of one kind, such as ``ClassModule``."""
    model = load(path, build=build)
    if not isinstance(model, kind):
        found, wanted = type(model).__name__, kind.__name__
        way_out = _WAYS_OUT.get((found, wanted), f"give a file that holds a {wanted}")
        raise StorageError(f"{path}: holds a {found}, not a {wanted}; {way_out}")
    return model


def describe(path: str | Path) -> dict[str, Any]:
    """Return the manifest of a file as JSON values, its details included; no tensor is read."""
    path = Path(path)
    return _checked(path, read_manifest(located(path))).model_dump(mode="json")


def _read(path: Path) -> tuple[Tensors, AnyFile]:
    tensors, manifest = read_tensors(located(path))
    try:
        tensors = expand(tensors)
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from error
    return tensors, _checked(path, manifest)


def _checked(path: Path, manifest: dict[str, Any]) -> AnyFile:
    try:
        # As JSON text, because only there strict checks take a list for a tuple.
        text = json.dumps(manifest)
        file: AnyFile = TypeAdapter(AnyFile).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "kind"
        raise StorageError(f"{path}: its manifest is wrong at {place!r}: {first['msg']}") from error
    return file
