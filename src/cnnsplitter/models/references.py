"""How a person names a network: our own by name, a library's, or a factory of their own.

    resnet20  torchvision:NAME  timm:NAME  package.module:factory

Arguments come as ``key=value``. Nothing here imports or builds what is named.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Mapping

from cnnsplitter.errors import SettingsError

Scalar = bool | int | float | str | None
"""An argument of a network: what JSON can hold without lists and objects."""

LIBRARIES = ("torchvision", "timm")
LONGEST_TEXT = 200

_PATH = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FACTORY = re.compile(f"{_PATH}:{_PATH}", re.ASCII)
_PYTHON_WORDS: Mapping[str, Scalar] = {"True": True, "False": False, "None": None}


def is_library_model(name: str) -> bool:
    """Tell whether ``name`` has the form ``torchvision:NAME`` or ``timm:NAME``."""
    return ":" in name and name.partition(":")[0] in LIBRARIES


def is_factory(name: str) -> bool:
    """Tell whether ``name`` has the form ``package.module:factory``."""
    return not is_library_model(name) and _FACTORY.fullmatch(name) is not None


def parse_arguments(texts: Iterable[str]) -> dict[str, Scalar]:
    """Parse ``key=value`` texts; a value that is no JSON number, true, false or null is a text.

    Example:
        >>> parse_arguments(["depth=20", "bias=false", "act=relu"])
        {'depth': 20, 'bias': False, 'act': 'relu'}

    Raises:
        SettingsError: No ``=``, no name, the same name twice, or a list or object as value.
    """
    arguments: dict[str, Scalar] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise SettingsError(f"--model-arg {text!r} must be NAME=VALUE")
        if name in arguments:
            raise SettingsError(f"--model-arg {name!r} is given twice; keep one")
        arguments[name] = _parse_value(value)
    require_scalars(arguments)
    return arguments


def require_scalars(arguments: Mapping[str, object]) -> None:
    """Raise ``SettingsError`` unless a file can hold the arguments: short texts, finite numbers."""
    for name, value in arguments.items():
        if not isinstance(value, Scalar):
            raise SettingsError(
                f"model argument {name!r} is {value!r}, but must be a number, true, false, null "
                "or a text; write a factory for what needs more"
            )
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise SettingsError(
                f"model argument {name!r} is a text of {len(value)} characters; "
                f"at most {LONGEST_TEXT} are kept"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise SettingsError(f"model argument {name!r} is {value}, but must be finite")


def as_options(name: str, arguments: Mapping[str, Scalar]) -> str:
    """Return the options that name a network on the command line, safe to paste into a shell."""
    words = ["--model", name]
    for key, value in arguments.items():
        words += ["--model-arg", f"{key}={_as_text(value)}"]
    return shlex.join(words)


def _parse_value(text: str) -> Scalar:
    if text in _PYTHON_WORDS:
        return _PYTHON_WORDS[text]
    try:
        # Only the JSON of the standard is read; NaN and Infinity stay texts.
        value: Scalar = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value


def _as_text(value: Scalar) -> str:
    """Return what ``_parse_value`` reads as ``value``, without control characters."""
    plain = isinstance(value, str) and value.isprintable() and _parse_value(value) == value
    return str(value) if plain else json.dumps(value)
