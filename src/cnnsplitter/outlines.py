"""Nested JSON values as an outline, for terminals and for Markdown alike."""

from collections.abc import Iterator, Mapping
from typing import Any


def outline(value: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[int, str, Any]]:
    """Yield (depth, key, what stands beside it) for each line; None beside a heading.

    A mapping is a heading with lines below; so is each mapping of a list. Other values stand
    beside their key in a tuple of one, tables of numbers only with their size: nobody
    reads the weights of a linear layer.

    Example:
        >>> list(outline({"seed": 1, "search": {"keep": 0.5}}))
        [(0, 'seed', (1,)), (0, 'search', None), (1, 'keep', (0.5,))]
    """
    for key, inner in value.items():
        parts = inner if isinstance(inner, list) else [inner]
        if not any(isinstance(part, Mapping) and part for part in parts):
            yield depth, key, (_sized(inner),)
            continue
        for part in parts:
            yield depth, key, None if isinstance(part, Mapping) else (part,)
            if isinstance(part, Mapping):
                yield from outline(part, depth + 1)


def _sized(value: Any) -> Any:
    rows = value if isinstance(value, list) else []
    widths = {len(row) if isinstance(row, list) else None for row in rows}
    if len(widths) != 1 or None in widths:
        return value
    return f"{len(rows)} x {widths.pop()} values"
