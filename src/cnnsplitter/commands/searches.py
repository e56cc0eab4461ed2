"""The search that the options of ``split`` name, and its settings."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.commands.completing import IMPORTANCES
from cnnsplitter.commands.options import given, settings_table
from cnnsplitter.errors import SettingsError, StorageError, require_known

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.search import SearchResult
    from cnnsplitter.search.registry import AnySearch
    from cnnsplitter.storage.unpacking import Builder

_OPTIONS = ("population", "generations", "size_weight", "patience", "keep", "target", "tries")
_GENETIC_FLAGS = {"preset": "--preset", "start": "--start", "curves": "--sensitivity"}
_GENETIC = ("population", "generations", "size_weight", *_GENETIC_FLAGS)
"""Options that only the genetic search uses; without ``--search`` they mean it."""


def chosen_search(context: typer.Context) -> "AnySearch":
    """Return a search by name, with what a table of the settings file and then options change."""
    search, measure = _named_search(context), context.params["importance"]
    require_known("importance", measure, IMPORTANCES)
    ranks = search.needs_importance or search.needs_sensitivity
    if measure != IMPORTANCES[0] and not ranks:
        name = search_name(context)
        raise SettingsError(f"--importance {measure}: the search {name!r} ranks no units by it")
    return search


def _named_search(context: typer.Context) -> "AnySearch":
    from cnnsplitter.search.registry import SEARCHES, make_search, require_options

    options = context.params
    name, changes = search_name(context), given(**{key: options[key] for key in _OPTIONS})
    require_known("search", name, SEARCHES)
    require_options(name, changes)
    if name == "genetic":
        return _genetic(context, changes)
    for key, flag in _GENETIC_FLAGS.items():
        if options[key] is not None:
            raise SettingsError(f"{flag} is a setting of the genetic search, not of {name!r}")
    return make_search(name, settings_table(context, name), options=changes)


def search_name(context: typer.Context) -> str:
    """Return what ``--search`` says, or the search that other options or a table can only mean."""
    from cnnsplitter.search.registry import DEFAULT_SEARCH, SEARCHES

    options = context.params
    if options["search"] is not None:
        return str(options["search"])
    if any(options[key] is not None for key in _GENETIC):
        return "genetic"
    tables = [name for name in SEARCHES if settings_table(context, name)]
    return tables[0] if len(tables) == 1 else DEFAULT_SEARCH


def _genetic(context: typer.Context, changes: dict[str, Any]) -> "AnySearch":
    """Return the genetic search, maybe a published one; others go with the population."""
    from cnnsplitter.recipes import SearchSettings
    from cnnsplitter.search.presets import StartRatios
    from cnnsplitter.settings import parse_settings

    options, table = context.params, settings_table(context, "genetic")
    chosen = parse_settings(SearchSettings, given(preset=options["preset"]), "search")
    values = chosen.model_dump() | {"name": "genetic", "genetic": table}
    chosen = parse_settings(SearchSettings, values, f"{options['settings']}")
    search = chosen.adapted(**changes).search
    if options["curves"] and isinstance(getattr(search, "start_ratios", None), StartRatios):
        raise SettingsError(
            "--sensitivity says which ratios the search starts from, and so do its settings "
            "(start_ratios, maybe of a preset); give one of the two"
        )
    return search


def read_start(
    folder: Path, strong: "Classifier", build: "Builder | None" = None
) -> "SearchResult":
    """Return the selections of the class modules in a folder, one for each class of ``strong``."""
    import torch

    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.search import SearchResult
    from cnnsplitter.storage.saving import load_as

    modules = [
        load_as(ClassModule, path, build=build) for path in sorted(folder.glob("*.safetensors"))
    ]
    known = {module.source_class: module.selection for module in modules}
    selections = []
    for name in strong.classes:
        selection = known.get(name)
        if selection is None:
            raise StorageError(
                f"{folder}: holds no class module of {name!r} that knows the units it keeps; "
                "name a folder that a split of this model has written"
            )
        selections.append(selection)
    fingerprint, *others = {selection.fingerprint for selection in selections}
    if others:
        raise StorageError(f"{folder}: holds class modules of different networks; choose another")
    keep = torch.stack([selection.keep for selection in selections])
    return SearchResult(strong.classes, keep, fingerprint, ())


def described(context: typer.Context, search: "AnySearch") -> dict[str, Any]:
    """Return the search's name and settings, as they are kept with what it found."""
    values = search.model_dump(mode="json")
    return {
        "name": search_name(context),
        "ranked_by": context.params["importance"],
        "units": context.params["units"],
        **values,
    }
