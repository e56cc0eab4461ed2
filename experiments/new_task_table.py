"""Write the tables of ``docs/new-task.md``: ``python -m experiments.new_task_table``."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from cnnsplitter.results import read_json
from experiments.result_rows import made_by

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
TITLES = ("second model", "class modules", "calibration", "seeds", "composed", "from scratch")
SUBTASK_TITLES = (
    "classes",
    "seeds",
    "multiply-adds",
    "strong model",
    "as cut",
    "new norm statistics",
    "compensated",
    "fine-tuned",
)
SUBTASK_FIGURES = ("strong", "plain", "recalibrated", "compensated", "tuned")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per second model, size and calibration, with means over the seeds."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        size = "whole" if row["kept_macs"] == 1 else "narrow"
        groups[row["second"], size, row["calibration"]].append(row)
    lines = [(*TITLES, "difference"), tuple("---" for _ in (*TITLES, "difference"))]
    lines += [_line(*names, found) for names, found in groups.items()]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(
    second: str, size: str, calibration: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    kept = mean(row["kept_macs"] for row in rows)
    named = "whole models" if size == "whole" else f"{100 * kept:.0f} % of the multiply-adds"
    composed, scratch = (
        100 * mean(row[f"accuracy_{name}"] for row in rows) for name in ("composed", "scratch")
    )
    figures = (f"{composed:.1f} %", f"{scratch:.1f} %", f"{composed - scratch:+.1f}")
    return (second, named, calibration, str(len(rows)), *figures)


def subtask_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line per sub-task: mean accuracies on the test images of its classes."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["classes"]].append(row)
    lines = [SUBTASK_TITLES, tuple("---" for _ in SUBTASK_TITLES)]
    for classes, found in groups.items():
        kept = mean(row["kept_macs"] for row in found)
        means = (mean(row[f"accuracy_{name}"] for row in found) for name in SUBTASK_FIGURES)
        figures = (f"{100 * value:.1f} %" for value in means)
        lines.append((classes.replace(",", ", "), str(len(found)), f"{100 * kept:.0f} %", *figures))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


TABLES = {"new-task": table, "subtasks": subtask_table}
"""Name of a results file, and of the place in the page, to its table."""


def written(page: str, name: str, found: Mapping[str, Any]) -> str:
    """Return the page with one of its tables made anew from what a results file holds."""
    new = f"<!-- {name} -->\n{TABLES[name](found['rows'])}\n{made_by(found)}\n<!-- end -->"
    place = re.compile(f"<!-- {name} -->\n.*?<!-- end -->", re.DOTALL)
    return place.sub(lambda _: new, page)


def main(
    results: Annotated[Path, typer.Option(help="Folder of results.")] = RESULTS,
    page: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs/new-task.md",
) -> None:
    """Rewrite the tables."""
    text = page.read_text()
    for name in TABLES:
        text = written(text, name, read_json(results / f"{name}.json"))
    page.write_text(text)


if __name__ == "__main__":
    typer.run(main)
