"""The docs page of the networks that have been studied, from the recorded rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnnsplitter.results import Row

HEAD = """\
# Networks

What a channel map leaves to choose in the networks of other libraries, at random weights and
1000 classes. Each network is traced, cut by random selections that keep 30, 60 and 90 % of every
group of units, and by the selection that keeps everything; masked and cut network are compared in
double precision on two images, after norms have taken the statistics of these images.

* **selectable**: share of the kernels that some selection drops. Frozen kernels are not counted,
  and neither is a unit that holds all kernels of a layer, because every selection needs it.
* **kernels per unit**: mean and, in brackets, maximum.
* **trace**, **cut**: seconds of processor time on one thread, at the size of the images in use;
  cut is the extraction of one class module that keeps 60 %.
* **error**: the largest difference between masked and cut, relative to the largest output.
* **kept always, and why**: kernels in brackets.
"""
TITLES = (
    *("network", "parameters", "image", "kernels", "units", "selectable", "kernels per unit"),
    *("trace", "cut", "error", "kept always, and why"),
)


def page(results: Mapping[str, Any]) -> str:
    """Return the Markdown page of a results file.

    Args:
        results: ``machine``, ``versions``, ``command`` and ``rows``.
    """
    rows: list[Row] = results["rows"]
    machine, versions = results["machine"], results["versions"]
    libraries = sorted({str(row["library"]) for row in rows})
    parts = [HEAD]
    for library in libraries:
        own = [row for row in rows if row["library"] == library]
        parts += [f"## {library}\n", summary(own), table(own)]
    parts.append(
        f"Made by `{results['command']}` on {machine['cores']} cores of\n"
        f"{machine['processor']}, shared with other work, with PyTorch {versions['torch']}; the\n"
        "rows are in [experiments/results/networks.json](../experiments/results/networks.json).\n"
    )
    return "\n".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """Return one line on how many networks were traced, and how well that went."""
    traced = [row for row in rows if row["refused"] is None]
    whole = sum(row["selectable"] == 1 for row in traced)
    worst = max((float(row["error"] or 0) for row in traced), default=0.0)
    return (
        f"{len(traced)} of {len(rows)} networks traced, {whole} of them with every kernel "
        f"selectable; the largest error is {worst:.0e}.\n"
    )


def table(rows: Sequence[Row]) -> str:
    """Return one line per network, in alphabetical order."""
    lines = [TITLES, tuple("---" for _ in TITLES)]
    lines += [_line(row) for row in sorted(rows, key=lambda row: str(row["network"]))]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    name = row["network"].partition(":")[2]
    if row["refused"] is not None:
        return (name, *["-"] * (len(TITLES) - 2), f"refused: {row['refused']}")
    return (
        name,
        f"{row['parameters'] / 1e6:.1f} M",
        str(row["image"]),
        str(row["kernels"]),
        str(row["units"]),
        f"{100 * row['selectable']:.1f} %",
        f"{row['kernels_per_unit']:.1f} ({row['most_kernels_per_unit']})",
        f"{row['trace_seconds']:.1f}",
        f"{row['extract_seconds']:.2f}",
        f"{row['error']:.0e}",
        row["frozen"] or "nothing",
    )
