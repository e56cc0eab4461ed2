"""The search that the options of ``split`` name, and its settings."""

from typing import TYPE_CHECKING, Any

import typer

from cnnsplitter.commands.options import given, settings_table
from cnnsplitter.errors import SettingsError, require_known

if TYPE_CHECKING:
    from cnnsplitter.search.registry import AnySearch

_OPTIONS = ("population", "generations", "size_weight", "patience", "keep", "tries")


def chosen_search(context: typer.Context) -> "AnySearch":
    """Return a search by name, with what a table of the settings file and then options change."""
    from cnnsplitter.search.registry import SEARCHES, make_search, require_options

    options = context.params
    name, changes = options["search"], given(**{key: options[key] for key in _OPTIONS})
    require_known("search", name, SEARCHES)
    require_options(name, changes)
    if name == "genetic":
        return _genetic(context, changes)
    if options["preset"] is not None:
        raise SettingsError(f"--preset is a setting of the genetic search, not of {name!r}")
    return make_search(name, settings_table(context, name), options=changes)


def _genetic(context: typer.Context, changes: dict[str, Any]) -> "AnySearch":
    """Return the default search or a published one; parents and elites go with the population."""
    from cnnsplitter.recipes import SearchSettings
    from cnnsplitter.settings import parse_settings

    options, table = context.params, settings_table(context, "genetic")
    chosen = parse_settings(SearchSettings, given(preset=options["preset"]), "search")
    values = chosen.model_dump() | {"genetic": table}
    chosen = parse_settings(SearchSettings, values, f"{options['settings']}")
    return chosen.adapted(**changes).search


def described(context: typer.Context, search: "AnySearch") -> dict[str, Any]:
    """Return the search's name and settings, as they are kept with what it found."""
    return {"name": context.params["search"], **search.model_dump(mode="json")}
