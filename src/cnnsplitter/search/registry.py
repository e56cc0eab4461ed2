"""The searches by name, as the command line and settings files call them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from cnnsplitter.errors import SettingsError, require_known
from cnnsplitter.search.genetic import GeneticSearch
from cnnsplitter.search.gradient.searching import GradientSearch
from cnnsplitter.search.random_search import RandomSearch
from cnnsplitter.search.thresholding import ThresholdSearch
from cnnsplitter.settings import parse_settings

AnySearch = GeneticSearch | GradientSearch | ThresholdSearch | RandomSearch

SEARCHES: Mapping[str, type[AnySearch]] = MappingProxyType(
    {
        "genetic": GeneticSearch,
        "gradient": GradientSearch,
        "importance": ThresholdSearch,
        "random": RandomSearch,
    }
)
"""Name to the settings model that is the search."""

DEFAULT_SEARCH = "gradient"
"""The search of the most accurate class modules at every size (docs/split-results.md)."""


def default_search() -> GradientSearch:
    """Return the search that is taken where none is named."""
    return GradientSearch()


def compensates(search: object) -> bool:
    """Return whether class modules that ``search`` finds are compensated unless one says no.

    That is so for the default search, which was the most accurate one with compensation; the
    others, and with them the published configurations, leave all weights as they were.
    """
    return isinstance(search, GradientSearch)


def make_search(
    name: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
    *,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> AnySearch:
    """Return the search called ``name``.

    Args:
        name: One of ``SEARCHES``.
        settings: Its settings, such as those of a settings file's table.
        options: More of them, each from an option of its own, which win.

    Raises:
        SettingsError: An unknown search, one of ``options`` that it does not have, a key that it
            does not know, or a value out of range.
    """
    require_known("search", name, SEARCHES)
    require_options(name, options)
    return parse_settings(SEARCHES[name], {**settings, **options}, name)


def require_options(name: str, options: Iterable[str]) -> None:
    """Raise ``SettingsError`` if the search called ``name`` does not have one of ``options``."""
    for option in options:
        if option in SEARCHES[name].model_fields:
            continue
        fitting = [other for other in SEARCHES if option in SEARCHES[other].model_fields]
        raise SettingsError(
            f"the search {name!r} has no option {option!r}; "
            f"these have: {', '.join(fitting) or 'none'}"
        )
