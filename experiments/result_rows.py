"""Rows of a results file that several machines may have added to, each with where it was made."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnnsplitter.errors import StorageError
from cnnsplitter.results import Row, machine, read_json, versions, write_results


def known_rows(out: Path, command: str) -> list[Row]:
    """Return the rows that the same command has written before."""
    if not out.exists():
        return []
    known = read_json(out)
    if known["command"] != command:
        raise StorageError(f"{out}: was made by {known['command']!r}; choose another --out")
    return [_placed(row, known) for row in known["rows"]]


def write_rows(out: Path, rows: Sequence[Row], command: str) -> None:
    """Write ``rows``; those that do not say where they were made were made here."""
    here = {"machine": machine(), "versions": versions()}
    write_results(out, [_placed(row, here) for row in rows], command)


def made_by(found: Mapping[str, Any]) -> str:
    """Return a sentence on where the figures of a results file come from."""
    rows = [_placed(row, found) for row in found["rows"]]
    counts = Counter(str(row["processor"]) for row in rows)
    places = [f"{name} ({count} rows)" for name, count in counts.items()]
    torch = " and ".join(sorted({str(row["torch"]) for row in rows}))
    names = found["versions"] | {"torch": torch}
    return (
        f"Made by `{found['command']}` on {' and '.join(places if len(places) > 1 else counts)} "
        f"with {', '.join(f'{name} {version}' for name, version in names.items())}."
    )


def _placed(row: Row, place: Mapping[str, Any]) -> Row:
    return {"processor": place["machine"]["processor"], "torch": place["versions"]["torch"], **row}
