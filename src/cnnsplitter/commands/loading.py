"""Weak models and class modules, as the options of ``patch`` and ``diagnose`` name them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnnsplitter.commands.options import load_model
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.zoo import PREFIX

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.patches.patching import PatchedModel
    from cnnsplitter.storage.unpacking import Builder


def load_weak(path: Path, build: "Builder | None") -> "Classifier | PatchedModel":
    """Load a model that class modules can be attached to."""
    from torch import nn

    from cnnsplitter.classifier import Classifier
    from cnnsplitter.patches.patching import PatchedModel

    model = load_model(nn.Module, path, build)
    if not isinstance(model, Classifier | PatchedModel):
        raise SettingsError(f"{path}: holds a {type(model).__name__}; give a whole classifier")
    return model


def parts_of(
    model: "Classifier | PatchedModel",
) -> "tuple[Classifier, dict[str, ClassModule]]":
    """Return the weak model, and the class modules that are attached to it by their classes."""
    from cnnsplitter.patches.patching import PatchedModel

    if isinstance(model, PatchedModel):
        return model.weak, {part.target: part.module for part in model.patches}
    return model, {}


def load_modules(
    texts: list[str], build: "Builder | None", known: "Mapping[str, ClassModule]"
) -> dict[str, "ClassModule"]:
    """Load class modules, by the names of the classes that they are to patch."""
    from cnnsplitter.class_modules import ClassModule

    modules: dict[str, ClassModule] = {}
    for text in texts:
        name, path = _named(text)
        module = load_model(ClassModule, path, build)
        target = name or module.source_class
        if target in modules:
            raise SettingsError(f"--with names the class {target!r} twice; keep one")
        if target in known:
            raise SettingsError(f"class {target!r} is patched already; take that away: unpatch")
        modules[target] = module
    return modules


def _named(text: str) -> tuple[str | None, Path]:
    """Split ``CLASS=FILE``; a file whose own name holds ``=`` is taken as a file."""
    name, equals, path = text.partition("=")
    if Path(text).exists() or not equals:
        return None, Path(text)
    return name, Path(path)


def gather_modules(
    texts: "Sequence[str]", build: "Builder | None"
) -> "tuple[dict[str, ClassModule], dict[str, str]]":
    """Load class modules from folders and files, by the names of the classes that they score.

    Returns:
        The class modules, and why other files of the folders are left out, by their names.
    """
    found: dict[str, ClassModule] = {}
    skipped: dict[str, str] = {}
    for text in texts:
        more, left_out = _found_at(text, build)
        for name in found.keys() & more.keys():
            raise SettingsError(f"--modules names two class modules of {name!r}; keep one")
        found |= more
        skipped |= left_out
    return found, skipped


def _found_at(
    text: str, build: "Builder | None"
) -> "tuple[dict[str, ClassModule], dict[str, str]]":
    from cnnsplitter.class_modules import ClassModule

    name, path = _named(text)
    if path.is_dir() and name is None:
        return _load_folder(path, build)
    if not path.is_file() and not str(path).startswith(PREFIX):
        raise SettingsError(f"{path}: no such class module or folder of them")
    module = load_model(ClassModule, path, build)
    return {name or module.source_class: module}, {}


def _load_folder(
    folder: Path, build: "Builder | None"
) -> "tuple[dict[str, ClassModule], dict[str, str]]":
    """Load all class modules of a folder, by their classes; say why other files are left out."""
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.storage.saving import describe

    found: dict[str, ClassModule] = {}
    files: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            manifest = describe(path)
        except StorageError as error:
            skipped[path.name] = str(error)
            continue
        if manifest["kind"] != "class-module":
            skipped[path.name] = f"it holds a model of the kind {manifest['kind']}"
            continue
        module = load_model(ClassModule, path, build)
        name = module.source_class
        if name in found:
            raise SettingsError(
                f"{folder}: {files[name].name} and {path.name} are both class modules of "
                f"{name!r}; keep one there"
            )
        found[name], files[name] = module, path
    if not found:
        raise SettingsError(f"{folder}: no class modules there; split a strong model into it")
    return found, skipped
