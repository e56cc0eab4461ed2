"""Print what a patch experiment found as a Markdown page: means over its cases, by method."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from cnnsplitter.results import read_json
from experiments.result_rows import made_by

FIGURES = {"precision": "precision", "recall": "recall", "f1": "F1", "other": "other classes"}
TITLES = ("weak", "patch", "method", "cases", *FIGURES.values(), "F1 worse", "patch runs")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per kind of weak model, patch and method, with mean changes in points."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    kinds = {row["weak"] for row in rows}
    for row in rows:
        for weak in (row["weak"], *(["**all**"] if len(kinds) > 1 else [])):
            groups[weak, row["patch"], row["method"]].append(row)
    lines = [TITLES, tuple("---" for _ in TITLES)]
    lines += [(*names, *cells(found)) for names, found in sorted(groups.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what one line shows of its cases: their number, and ``TITLES`` from there on."""
    worse = sum(row["f1_after"] < row["f1_before"] for row in rows)
    shares = [row["run_share"] for row in rows if row.get("run_share") is not None]
    runs = f"{100 * mean(shares):.0f} %" if shares else "-"
    changes = (_change(figure, rows) for figure in FIGURES)
    return (str(len(rows)), *changes, f"{worse} of {len(rows)}", runs)


def _change(figure: str, rows: Sequence[Mapping[str, Any]]) -> str:
    changes = [100 * (row[f"{figure}_after"] - row[f"{figure}_before"]) for row in rows]
    spread = f" ± {stdev(changes):.1f}" if len(changes) > 1 else ""
    return f"{mean(changes):+.1f}{spread}"


def main(file: Annotated[Path, typer.Argument(help="A results file.")]) -> None:
    """Print the page: the table, and where its figures come from."""
    found = read_json(file)
    typer.echo(
        "Mean change in points on the test images ± standard deviation over the cases (target "
        "classes and seeds).\n"
    )
    typer.echo(table(found["rows"]))
    typer.echo(f"\n{made_by(found)}")


if __name__ == "__main__":
    typer.run(main)
