"""The docs page of the recorded splits: ``python -m experiments.split_page``."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cnnsplitter.results import read_json
from experiments.result_rows import made_by

HERE = Path(__file__).parent
RESULTS, WAYS = HERE / "results/split.json", HERE / "results/objectives.json"
PAGE = HERE.parent / "docs/split-results.md"

HEAD = """\
# How good splits are

Networks trained by others, split into one class module per CIFAR-10 class and composed again.
Every search has the same budget: the share of the kernels that each class module may keep. The
gradient search comes first; the genetic search then gets as much processor time, and ends with the
generation in which that is used up.

* **points**: accuracy of the composed model on test images, less that of the strong model.
* **after the cut**: `no` for plain class modules, whose weights are the strong model's own;
  `compensated` for the same ones after [compensation](methods.md), which changes weights in closed
  form, without labels; `compensated, fine-tuned on N images` after a short distillation on top of
  that, which trains all weights towards the strong model's own logits, without labels, in one pass
  over N images.
* **kernels**, **multiply-adds**: share that a class module keeps, mean over the classes.
* **overlap**: Jaccard index of the kernels of two class modules, mean over all pairs.
* **seconds**: processor time of the search, and of what follows it.

± is the standard deviation over seeds. The test images are drawn at random, the same ones for
every row, and were not looked at while settings were chosen. That class modules are fine-tuned at
all was decided after the other rows had been seen, its settings before its own; that more images
are worth trying was seen on the rows with fewer. A first fine-tuning of the SimCNN, at the ResNet's
learning rate, gave 17.0 % on the test images; since then networks without batch norms try rates out
on their training images.
"""
TITLES = (
    *("kernels", "search", "after the cut", "seeds", "points", "composed"),
    *("multiply-adds", "overlap", "seconds"),
)
GOALS = (("resnet20", 0.7, 2), ("resnet20", 0.5, 5), ("simcnn", 0.4, 1))
"""(network, share of the kernels, points that may be lost)."""

Rows = Sequence[Mapping[str, Any]]


def page(results: Mapping[str, Any], ways: Mapping[str, Any] | None = None) -> str:
    """Return the Markdown page of a results file.

    Args:
        results: ``machine``, ``versions``, ``command`` and ``rows``.
        ways: Likewise of `experiments.objectives`.
    """
    rows = results["rows"]
    threads = ", ".join(map(str, sorted({row["threads"] for row in rows})))
    parts = [HEAD]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        parts += [f"## {model}\n", _strong(own), table(own), *_goals(model, own)]
    parts += [
        *([] if ways is None else [_ways(ways)]),
        LIMITS,
        f"{made_by(results)}\nThreads: {threads}; shared with other work. The rows are in\n"
        "[experiments/results/split.json](../experiments/results/split.json).\n",
    ]
    return "\n".join(parts)


def _ways(results: Mapping[str, Any]) -> str:
    """Return the section on what the gradient search learns from."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in results["rows"]:
        found[row["form"], row["gate"]].append(row)
    lines = [WAY_TITLES, tuple("---" for _ in WAY_TITLES)]
    for names, rows in found.items():
        figures = (_spread(rows, f"accuracy_{name}") for name in ("plain", "compensated"))
        seconds = mean(row["cpu_seconds"] for row in rows)
        lines.append((*names, str(len(rows)), *figures, f"{seconds:.0f}"))
    table_of = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"{WAY_HEAD}\n{table_of}\n{made_by(results)}\n"


def _spread(rows: Rows, figure: str) -> str:
    shares = [100 * row[figure] for row in rows]
    return f"{mean(shares):.1f}" + (f" ± {stdev(shares):.1f}" if len(shares) > 1 else "") + " %"


WAY_TITLES = ("scores should", "gate", "seeds", "plain", "compensated", "seconds")
WAY_HEAD = """\
## What the gradient search learns from

The ResNet-20 at 70 % of the kernels with the search's settings above, and every form of its loss
and every gate (see [the gradient search](methods.md)): accuracy of the composed model on 2,000
images kept for calibration, since no choice is made on test images. (The strong model was trained
on them, so these figures are not to be compared with those above.) Class modules are compensated
unless one says otherwise; after that, forms other than the published `sigmoid` differ by less than
the seeds do. `both` stays the default: plain, it is better than `cross-entropy` alone, and
compensated no worse than `match`. `sigmoid` gates are the best of the three, plain and compensated.
"""
LIMITS = """\
## What this does not show

* A line of one seed says nothing of the spread. With few test images a difference of three points
  may be chance.
* The searches are small: seconds to minutes of one thread. More rounds or generations may change
  their order.
* The ResNet-20 was trained by others on all CIFAR-10 training images, so the images that selections
  are scored on are images it has seen; only test images are new to it.
"""


def table(rows: Rows) -> str:
    """Return one line per budget, search and treatment, with means over seeds."""
    lines = [TITLES, tuple("---" for _ in TITLES)]
    lines += [(*names, *_cells(found)) for names, found in sorted(groups(rows).items())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def groups(rows: Rows) -> dict[tuple[str, str, str], Rows]:
    """Return the rows by budget, search and treatment."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        budget = f"{100 * row['keep']:.0f} %"
        found[budget, row["search"], row["tuned"]].append(row)
    return dict(found)


def _cells(rows: Rows) -> tuple[str, ...]:
    changes = [_points(row) for row in rows]
    spread = f" ± {stdev(changes):.1f}" if len(changes) > 1 else ""
    means = {name: mean(row[name] for row in rows) for name in ("kept_macs", "overlap")}
    return (
        str(len(rows)),
        f"{mean(changes):+.1f}{spread}",
        f"{100 * mean(row['accuracy_composed'] for row in rows):.1f} %",
        f"{100 * means['kept_macs']:.0f} %",
        f"{means['overlap']:.2f}",
        f"{mean(row['cpu_seconds'] for row in rows):.0f}",
    )


def _points(row: Mapping[str, Any]) -> float:
    return float(100 * (row["accuracy_composed"] - row["accuracy_strong"]))


def _strong(rows: Rows) -> str:
    shares = {f"{100 * row['accuracy_strong']:.1f}" for row in rows}
    images = sorted({row["images"] for row in rows})
    return (
        f"The strong model is right on {', '.join(sorted(shares))} % of "
        f"{', '.join(map(str, images))} test images.\n"
    )


def _goals(model: str, rows: Rows) -> list[str]:
    lines = []
    for network, share, points in GOALS:
        within = {
            names: mean(_points(row) for row in found)
            for names, found in groups(rows).items()
            if network == model and all(row["kept_kernels"] <= share for row in found)
        }
        if within:
            (_, search, tuned), change = max(within.items(), key=lambda item: item[1])
            met = "met" if change >= -points else "missed"
            treated = "plain" if tuned == "no" else tuned
            lines.append(
                f"Goal at {100 * share:.0f} % of the kernels, at most {points} points lost: "
                f"{met};\n"
                f"nearest is {search}, {treated}, with {change:+.1f}.\n"
            )
    return lines


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read_json(RESULTS), read_json(WAYS)))


if __name__ == "__main__":
    main()
