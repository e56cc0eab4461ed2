"""A folder as the hub expects it: the model, its settings as JSON, and a card."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnsplitter import __version__
from cnnsplitter.files import replacing, require_new
from cnnsplitter.hub.card import data_name, model_card
from cnnsplitter.results import write_json
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import describe, load, save
from cnnsplitter.storage.unpacking import Builder

MODEL, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def save_folder(
    model: Model,
    folder: str | Path,
    *,
    details: Mapping[str, Any] | None = None,
    title: str | None = None,
    license: str = "unknown",
    overwrite: bool = False,
) -> None:
    """Write ``model`` to a folder in the hub's layout.

    It gets ``model.safetensors``, as ``save`` writes it, ``config.json`` with what the model is,
    and ``README.md``, the model card. The latter two are for readers: nothing is loaded from them.
    None of the three says in which folders the images lay (``data`` of the details).

    Args:
        model: A classifier, class module, composed or patched model.
        folder: Made if need be; other files in it are left alone.
        details: JSON values to keep with the model: seed, settings, metrics. Metrics are shown in
            the card: a mapping from names to numbers, or rows of a table.
        title: Heading of the card; by default the name of the folder.
        license: Identifier of the hub for the license of the weights, such as ``"mit"``.
        overwrite: Whether the three files may be replaced.

    Raises:
        StorageError: One of the files exists, or cannot be written.
    """
    folder = Path(folder)
    for name in (CONFIG, CARD):
        require_new(
            folder / name, overwrite, remedy="choose another folder or allow to overwrite it"
        )
    save(model, folder / MODEL, details=public_details(details or {}), overwrite=overwrite)
    manifest = describe(folder / MODEL)
    write_json(
        folder / CONFIG,
        {"library_name": "cnnsplitter", "cnnsplitter_version": __version__, **manifest},
    )
    digest = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    title = title or folder.resolve().name
    card = model_card(model, manifest, digest, title=title, license=license)
    with replacing(folder / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")


def public_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details in which the images are named without the folders that they lay in."""
    data = details.get("data")
    return {**details, "data": data_name(data)} if isinstance(data, str) else dict(details)


def load_folder(folder: str | Path, *, build: Builder | None = None) -> Model:
    """Read the model of a folder that ``save_folder`` wrote or the hub gave, as ``load`` does.

    Raises:
        StorageError: There is no ``model.safetensors``, or ``load`` refuses it.
    """
    return load(Path(folder) / MODEL, build=build)
