"""How results look on the screen."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cnnsplitter.outlines import outline
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from torch import nn

    from cnnsplitter.cost import Cost
    from cnnsplitter.evaluation import Evaluation
    from cnnsplitter.sensitivity import Sensitivity

_FIGURES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "other": "accuracy on the other classes",
}


def show_evaluation(evaluation: "Evaluation", terminal: Terminal, name: str = "model") -> None:
    """Print accuracy and the figures of every class."""
    figures = zip(
        evaluation.classes,
        evaluation.precision.tolist(),
        evaluation.recall.tolist(),
        evaluation.f1.tolist(),
        strict=True,
    )
    terminal.table(
        f"Test images, {name}: accuracy {evaluation.accuracy:.3f}",
        [
            {"class": c, "images": evaluation.count(c), "precision": p, "recall": r, "F1": f1}
            for c, p, r, f1 in figures
        ],
    )


def show_changes(rows: Iterable[Mapping[str, Any]], terminal: Terminal) -> None:
    """Print what ``Comparison.rows`` says about every target class, before and after."""
    changes = [change for row in rows for change in _changes(row)]
    terminal.table("Before and after, on the test images", changes)


def _changes(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    name = f"{row['target']} ({row['n_target']} of {row['n_target'] + row['n_other']} images)"
    for key, title in _FIGURES.items():
        before, after = row[f"{key}_before"], row[f"{key}_after"]
        change = f"{100 * (after - before):+.1f} points"
        if f"{key}_change_low" in row:
            low, high = (100 * row[f"{key}_change_{end}"] for end in ("low", "high"))
            change += f" ({low:+.1f} to {high:+.1f})"
        yield {"class": name, "figure": title, "before": before, "after": after, "change": change}
        name = ""
    for key in ("macs_patched", "macs_gated"):
        if key in row:
            before, after = row["macs_weak"], row[key]
            runs = f", gated: run on {row['run_share']:.0%}" if key == "macs_gated" else ""
            yield {
                "class": name,
                "figure": f"multiply-adds{runs}",
                "before": before,
                "after": after,
                "change": f"x {after / before:.1f}",
            }


def cost_of(model: "nn.Module", input_shape: tuple[int, int, int]) -> "Cost":
    """Count what a model costs; of gated patches the most that one image can cost."""
    from cnnsplitter.cost import measure_cost
    from cnnsplitter.patches.cost import ungated
    from cnnsplitter.patches.patching import PatchedModel

    whole = ungated(model) if isinstance(model, PatchedModel) else model
    return measure_cost(whole, input_shape)


def show_costs(costs: Mapping[str, "Cost"], terminal: Terminal, at_once: int) -> None:
    """Print what each model costs and, of two, how many times the first the second is.

    Args:
        costs: By the models' names.
        terminal: Where to.
        at_once: How many images were run at a time where the time was measured.
    """
    rows = [{"model": name} | vars(cost) for name, cost in costs.items()]
    if len(costs) == 2:
        first, second = costs.values()
        ratio = second.relative_to(first)
        rows.append({"model": "ratio", **vars(ratio), "latency_ms": ratio.latency})
    timed = any(cost.latency_ms is not None for cost in costs.values())
    note = f" (the latency is that per image of {at_once} at once)" if timed else ""
    terminal.table(f"Cost{note}", rows)


def show_split(result: Mapping[str, Any], terminal: Terminal) -> None:
    """Print how good a strong model and its class modules are, and what these keep of it."""
    strong, composed = result["strong_accuracy"], result["composed_accuracy"]
    terminal.line(f"Strong model: accuracy {strong:.3f} on the test images.")
    terminal.line(f"Composed of its class modules: {composed:.3f}.")
    terminal.table("Class modules (shares of the strong model)", result["modules"])
    if "tuning" in result:
        plain = result["plain_composed_accuracy"]
        terminal.line(f"Before tuning, composed of its class modules: {plain:.3f}.")
        show_tuning(result["tuning"], terminal)


def show_tuning(stages: Iterable[Mapping[str, Any]], terminal: Terminal) -> None:
    """Print how accurate a model was before and after tuning, on images that are no test images."""
    terminal.table("Tuning (no test images); the last stage is what is written", list(stages))


def show_report(report: Mapping[str, Any], terminal: Terminal) -> None:
    """Print a run's report."""
    terminal.line(f"\n{report['title']}\n")
    show_split(report, terminal)
    show_changes(report["patches"], terminal)
    for row in report["patches"]:
        if "guard" in row:
            terminal.line(
                f"Patch of {row['target']}, by held-out calibration images: {row['guard']}"
            )


def show_sensitivity(curves: "Sensitivity", terminal: Terminal) -> None:
    """Print the curves and what is chosen from them, in percent."""
    starts = curves.start_ratios()
    terminal.table(
        "Accuracy in % of the composed model when one layer keeps a share of its kernels",
        [
            {"layer": name}
            | {f"{ratio:.0%}": round(100 * a) for ratio, a in zip(curves.ratios, row, strict=True)}
            | {"start %": " ".join(f"{100 * ratio:.0f}" for ratio in starts[name])}
            for name, row in zip(curves.groups, curves.accuracy.tolist(), strict=True)
        ],
    )
    terminal.line(f"Sensitive layers: {', '.join(curves.sensitive()) or 'none'}")
    terminal.line("A search starts with the shares under 'start %' and may go below them.")


def outline_lines(value: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that show nested JSON values, short ones in one line."""
    for depth, key, beside in outline(value):
        text = "" if beside is None else f" {_inline(*beside)}"
        yield f"{'  ' * depth}{key.replace('_', ' ')}:{text}"


def _inline(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_inline, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == {} else str(value)
