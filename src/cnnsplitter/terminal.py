"""What a person sees: progress bars and tables on a terminal, plain lines or JSON elsewhere."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Table

from cnnsplitter.progress import Step

_SECONDS_BETWEEN_LINES = 5.0


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<18}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeLeft(),
        TextColumn("{task.fields[values]}"),
        console=console,
    )


@dataclass
class Terminal:
    """Shows progress on standard error and results on standard output.

    Attributes:
        as_json: Print one JSON object instead of tables.
        quiet: Show no progress.
    """

    as_json: bool = False
    quiet: bool = False
    out: Console = field(default_factory=lambda: Console(highlight=False))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False))
    _tasks: dict[str, TaskID] = field(default_factory=dict)
    _last_line: float = 0.0

    def __post_init__(self) -> None:
        self._progress = _bars(self.err)

    def __enter__(self) -> "Terminal":
        if self.err.is_terminal and not self.quiet:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, step: Step, /) -> None:
        """Show one finished step."""
        if self.quiet:
            return
        values = "  ".join(f"{name} {_short(value)}" for name, value in step.values.items())
        if self.err.is_terminal:
            self._show_bar(step, values)
        elif step.done == step.total or time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.err.print(
                f"{step.stage}: {step.done}/{step.total}  {values}", soft_wrap=True, markup=False
            )

    def table(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Print rows with the same keys."""
        if self.as_json or not rows:
            return
        table = Table(title=title, title_justify="left", title_style="bold")
        for position, name in enumerate(rows[0]):
            table.add_column(name.replace("_", " "), justify="right" if position else "left")
        for row in rows:
            table.add_row(*(_escape(_short(value)) for value in row.values()))
        self.out.print(table)

    def line(self, text: str) -> None:
        """Print one line, unless JSON is printed."""
        if not self.as_json:
            self.out.print(text, soft_wrap=True, markup=False)

    def note(self, text: str) -> None:
        """Tell something beside the result, on standard error."""
        if not self.quiet:
            self.err.print(text, soft_wrap=True, markup=False)

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the JSON object, if JSON is wanted."""
        if self.as_json:
            self.out.print(json.dumps(value), soft_wrap=True, markup=False)

    def _show_bar(self, step: Step, values: str) -> None:
        if step.stage not in self._tasks:
            self._tasks[step.stage] = self._progress.add_task(step.stage, values="")
        self._progress.update(
            self._tasks[step.stage], completed=step.done, total=step.total, values=values
        )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
