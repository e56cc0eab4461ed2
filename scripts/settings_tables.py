"""Write the settings tables of ``docs/methods.md``: ``python -m scripts.settings_tables``.

A table stands between ``<!-- settings: NAME -->`` and ``<!-- end -->``, where NAME is a public
class with settings or a public function.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

import cnnsplitter

PAGE = Path(__file__).parents[1] / "docs/methods.md"
_SECTION = re.compile(r"^(?:Attributes|Args):\n(.*?)(?=^\w|\Z)", re.MULTILINE | re.DOTALL)
_TABLE = re.compile(r"<!-- settings: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def rewritten(text: str) -> str:
    """Return a page with its tables made anew."""
    return _TABLE.sub(lambda found: _between(found[1]), text)


def settings_of(thing: Any) -> dict[str, Any]:
    """Return the settings of a class, or keyword arguments of a function, with their defaults."""
    if not inspect.isclass(thing):
        parameters = inspect.signature(thing).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    if is_dataclass(thing):
        return {f.name: None if f.default is MISSING else f.default for f in fields(thing)}
    return {
        name: f.get_default(call_default_factory=True)
        for name, f in cast(type[BaseModel], thing).model_fields.items()
    }


def meanings_of(thing: Any) -> dict[str, str]:
    """Return what the docstrings say of each attribute or argument."""
    owners = reversed(thing.__mro__) if inspect.isclass(thing) else (thing,)
    return {name: text for owner in owners for name, text in _entries(owner.__doc__ or "")}


def _entries(doc: str) -> Iterator[tuple[str, str]]:
    section = re.search(
        r"^(?:Attributes|Args):\n(.*?)(?=^\w|\Z)", inspect.cleandoc(doc), re.M | re.S
    )
    entries = re.split(r"^    (?=\w+: )", section[1] if section else "", flags=re.MULTILINE)
    for entry in entries[1:]:
        name, _, text = entry.partition(": ")
        yield name, " ".join(text.split()).replace("``", "`").replace("|", "\\|")


def _between(name: str) -> str:
    thing = getattr(cnnsplitter, name)
    return (
        f"<!-- settings: {name} -->\n{_table(settings_of(thing), meanings_of(thing))}<!-- end -->"
    )


def _table(settings: Mapping[str, Any], meanings: Mapping[str, str]) -> str:
    rows = [
        f"| `{name}` | {_shown(value)} | {meanings[name]} |" for name, value in settings.items()
    ]
    return "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _shown(value: Any) -> str:
    return "none" if value is None or value == {} else f"`{getattr(value, '__name__', value)}`"


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
