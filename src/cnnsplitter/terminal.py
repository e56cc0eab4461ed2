"""What a person sees: progress bars and tables on a terminal, plain lines or JSON elsewhere."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from cnnsplitter.progress import Step

_SECONDS_BETWEEN_LINES = 5.0
_UNLIMITED = 10_000
_MINUTE, _HOUR = 60, 3600
_results: ContextVar[TextIO | None] = ContextVar("results", default=None)


@contextmanager
def prints_apart() -> Iterator[None]:
    """Keep standard output for results in the block: what networks print goes to standard error."""
    token = _results.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.reset(token)


def plain_console(*, stderr: bool = False, **options: Any) -> Console:
    """Return a console that shows text as it is; what is not a terminal has no width."""
    if not stderr:
        options = {"file": _results.get(), **options}
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False, **options)
    if not console.is_terminal:
        console.width = _UNLIMITED
    return console


def _bars(console: Console) -> Progress:
    """Return bars that, where the terminal is narrow, lose the end of the figures only."""
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
        BarColumn(bar_width=8),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[values]}", markup=False, table_column=rest),
        console=console,
        expand=True,
    )


@dataclass
class Terminal:
    """Shows progress on standard error and results on standard output.

    Attributes:
        as_json: Print one JSON object instead of tables and lines.
        quiet: Show no progress.
        verbose: Show every step as a line with the time of day, on a terminal, too.
    """

    as_json: bool = False
    quiet: bool = False
    out: Console = field(default_factory=plain_console)
    err: Console = field(default_factory=lambda: plain_console(stderr=True))
    verbose: bool = False
    _tasks: dict[str, TaskID] = field(default_factory=dict)
    _lines: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._progress = _bars(self.err)

    def __enter__(self) -> "Terminal":
        if self._shows_bars:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shows_bars:
            self._progress.stop()

    @property
    def _shows_bars(self) -> bool:
        return self.err.is_terminal and not self.quiet and not self.verbose

    def progress(self, step: Step, /) -> None:
        """Show one finished step."""
        if self.quiet:
            return
        values = "  ".join(f"{_title(name)} {_short(value)}" for name, value in step.values.items())
        if self._shows_bars:
            self._show_bar(step, values)
        elif self.verbose:
            clock = time.strftime("%H:%M:%S")
            self.note(f"{clock} {step.stage}: {step.done}/{step.total}  {values}".rstrip())
        elif self._is_due(step):
            self.note(f"{step.stage}: {step.done}/{step.total}  {values}".rstrip())

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows with the same keys; columns without any value are left out."""
        if self.as_json or not rows:
            return
        names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        lines = self.out.is_terminal
        padding = (0, 1 if lines else 2, 0, 0)
        table = Table(box=SIMPLE_HEAD if lines else None, pad_edge=False, padding=padding)
        for name in names:
            number = any(isinstance(row[name], int | float) for row in rows)
            table.add_column(_title(name), justify="right" if number else "left")
        for row in rows:
            table.add_row(*(printable(_short(row[name])) for name in names))
        self.out.print(Text(f"\n{title}", style="bold"), soft_wrap=True)
        self.out.print(table)

    def line(self, text: str) -> None:
        """Print one line, unless JSON is printed."""
        if not self.as_json:
            self.out.print(printable(text), soft_wrap=True)

    def note(self, text: str) -> None:
        """Tell something beside the result, on standard error."""
        self.err.print(text, soft_wrap=True)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the JSON object, if JSON is wanted."""
        if self.as_json:
            self.out.print(json.dumps(value), soft_wrap=True)

    def _is_due(self, step: Step) -> bool:
        """Return whether a step is worth a line: a stage's first, its last, and some between.

        A stage that begins again and again, such as the rounds of another, ends with one line only.
        """
        now, ends = time.monotonic(), step.done == step.total
        last, ended = self._lines.get(step.stage, (-inf, False))
        is_due = now - last > _SECONDS_BETWEEN_LINES or (ends and not ended)
        if is_due:
            self._lines[step.stage] = now, ends or ended
        return is_due

    def _show_bar(self, step: Step, values: str) -> None:
        if step.stage not in self._tasks:
            self._tasks[step.stage] = self._progress.add_task(step.stage, values="")
        self._progress.update(
            self._tasks[step.stage], completed=step.done, total=step.total, values=values
        )


def printable(text: str) -> str:
    """Show control characters, which a stranger's file may hold, as escapes; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds / _HOUR:.1f} h"


def _title(name: str) -> str:
    return name.replace("_", " ")


def _short(value: Any) -> str:
    match value:
        case None:
            return ""
        case float():
            return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
