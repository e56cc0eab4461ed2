"""Write the table of ``docs/new-task.md``: ``python -m experiments.new_task_table``."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer

from cnnsplitter.results import read_json

ROOT = Path(__file__).parents[1]
TITLES = ("second model", "class modules", "calibration", "seeds", "composed", "from scratch")
_TABLE = re.compile(r"<!-- new-task -->\n.*?<!-- end -->", re.DOTALL)


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


def written(page: str, found: Mapping[str, Any]) -> str:
    """Return the page with its table made anew from what a results file holds."""
    made = f"Made by `{found['command']}` with PyTorch {found['versions']['torch']}.\n"
    new = f"<!-- new-task -->\n{table(found['rows'])}\n{made}<!-- end -->"
    return _TABLE.sub(lambda _: new, page)


def main(
    file: Annotated[Path, typer.Option(help="Results.")] = ROOT
    / "experiments/results/new-task.json",
    page: Annotated[Path, typer.Option(help="The page.")] = ROOT / "docs/new-task.md",
) -> None:
    """Rewrite the table."""
    page.write_text(written(page.read_text(), read_json(file)))


if __name__ == "__main__":
    typer.run(main)
