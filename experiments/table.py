"""Print the rows of a results file as a Markdown table, averaged over seeds."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from cnnsplitter.results import read_json

FIGURES = ("precision", "recall", "f1", "other")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one line per method and target class, and one per method over all of them."""
    cases: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        for target in (row["target"], "all"):
            cases[row["method"], target].append(row)
    titles = ("method", "target", "kernels kept", "precision", "recall", "F1", "other classes")
    lines = [titles, tuple("---" for _ in titles)]
    lines += [_line(*case, rows_) for case, rows_ in sorted(cases.items(), key=_order)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _order(item: tuple[tuple[str, str], Any]) -> tuple[str, bool, str]:
    (method, target), _ = item
    return method, target == "all", target


def _line(method: str, target: str, rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    kept = f"{100 * mean(row['kept_kernels'] for row in rows):.0f} %"
    name = f"**{target}**" if target == "all" else target
    return (method, name, kept, *(_change(figure, rows) for figure in FIGURES))


def _change(figure: str, rows: Sequence[dict[str, Any]]) -> str:
    before, after = (
        mean(row[f"{figure}_{stage}"] for row in rows) for stage in ("before", "after")
    )
    changes = [100 * (row[f"{figure}_after"] - row[f"{figure}_before"]) for row in rows]
    spread = f" ± {stdev(changes):.1f}" if len(changes) > 1 else ""
    return f"{100 * before:.1f} → {100 * after:.1f} ({mean(changes):+.1f}{spread})"


def main(file: Annotated[Path, typer.Argument(help="A results file.")]) -> None:
    """Print the table."""
    typer.echo(table(read_json(file)["rows"]))


if __name__ == "__main__":
    typer.run(main)
