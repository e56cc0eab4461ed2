"""Every error that a user can cause: one typed, one-line message that says what to do."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any


class CnnSplitterError(Exception):
    """Base of all errors raised on purpose; the command line prints it and exits with code 2."""


class SettingsError(CnnSplitterError, ValueError):
    """A setting, recipe, flag or class name that cannot be used."""


class DataError(CnnSplitterError, ValueError):
    """Images or labels that are missing, broken or do not fit."""


class ModelError(CnnSplitterError, ValueError):
    """A network or its weights that cannot be used as they are."""


class UnsupportedModelError(ModelError):
    """A network whose channels cannot be followed; names the operator and the module."""


class SelectionError(CnnSplitterError, ValueError):
    """A selection that belongs to another network or would empty a layer."""


class EngineError(CnnSplitterError, RuntimeError):
    """Worker processes that cannot be started, or that end again and again."""


class StorageError(CnnSplitterError, OSError):
    """A file that is broken, foreign, too new, or in the way."""


class HubError(CnnSplitterError, OSError):
    """A model hub that cannot be reached, refuses, or does not have what is asked for."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown ``name``: the nearest of ``known``, else all of them."""
    known = sorted(known)
    nearest = difflib.get_close_matches(name, known, n=1)
    if nearest:
        return f"did you mean {nearest[0]!r}?"
    return f"known: {', '.join(known) or 'none'}"


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise ``SettingsError`` with the nearest match unless ``name`` is one of ``known``."""
    known = list(known)
    if name not in known:
        raise SettingsError(f"unknown {kind} {name!r}; {did_you_mean(name, known)}")


SEEDS = 2**63
"""Seeds are whole numbers from 0 to below this: what every generator takes."""


def require_seed(seed: int) -> None:
    """Raise ``SettingsError`` unless ``seed`` is one that every random generator takes."""
    if not 0 <= seed < SEEDS:
        shown = seed if abs(seed) < 2 * SEEDS else "a longer number"
        raise SettingsError(f"seed must be a whole number from 0 to {SEEDS - 1}, got {shown}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, its type if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def defined_at(thing: Callable[..., Any]) -> str:
    """Return file and line of a function or class, its module if there is no source."""
    try:
        return f"{inspect.getsourcefile(thing)}:{inspect.getsourcelines(thing)[1]}"
    except (OSError, TypeError):
        return f"module {getattr(thing, '__module__', 'unknown')}"
