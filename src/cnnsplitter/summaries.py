"""Short tables that notebooks and rich consoles show instead of a long ``repr``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

Row = Mapping[str, str]


@dataclass(frozen=True)
class Summary:
    """A title, a table, and a remark.

    Attributes:
        title: What it is about.
        rows: With the same keys.
        remark: What stands below the table.
    """

    title: str
    rows: Sequence[Row] = ()
    remark: str = ""

    @property
    def html(self) -> str:
        """A table whose names stay text, in the colours of the page around it."""
        head = "".join(f"<th>{escape(name)}</th>" for name in self._names)
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(value)}</td>' for value in row.values())}</tr>"
            for row in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        remark = f"<p>{escape(self.remark)}</p>" if self.remark else ""
        return f"<div><b>{escape(self.title)}</b>{table if self.rows else ''}{remark}</div>"

    @property
    def lines(self) -> list[str]:
        """The table and the remark as text, with columns under each other."""
        cells = [
            line for line in (self._names, *(tuple(row.values()) for row in self.rows)) if line
        ]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        table = [
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        return [_shown(line) for line in (*table, self.remark) if line]

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.rows[0]) if self.rows else ()


class Summarised:
    """Shows itself by its ``summary`` in notebooks and in rich; ``repr`` stays what it is."""

    def summary(self) -> Summary:
        """Return what is worth seeing at a glance."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return self.summary().html

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Render what names hold as it is: no markup, no emoji."""
        summary = self.summary()
        plain = partial(console.render_str, markup=False, emoji=False, highlight=False)
        yield plain(_shown(summary.title), style="bold")
        for line in summary.lines:
            yield plain(line)


def _shown(text: str) -> str:
    """Show control characters, which a stranger's file may hold, as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
