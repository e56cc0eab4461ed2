"""What a patch experiment shows in plain words: how much of it was run, and which goals are met."""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from experiments.patch import EXPERIMENTS, LONGER

Row = Mapping[str, Any]
Case = tuple[str, str, int]
Way = tuple[str, str]
GOALS: Mapping[str, Mapping[str, float]] = {
    "paper": {"precision": 20, "recall": 12, "f1": 17, "other": 1.5},
    "lenet": {"recall": 14, "other": 4},
    "scarce": {},
}
"""Least mean changes in points by class modules, learned; ``recall`` and so on of the target."""
NAMES = {
    "precision": "precision of the target",
    "recall": "recall of the target",
    "f1": "F1 of the target",
    "other": "accuracy on the other classes",
}
SEEDS = 3
KERNELS, GAIN, RUNS = 60, 95, 30
"""Per cent: kernels of a class module at most; share of a gain in F1 at least; runs at most."""
WAYS = {
    ("class-module", "learned"): "class modules, learned, the default",
    ("class-module", "auto"): "class modules, learned or linear as held-out images decide",
    ("class-module", "min-max"): "class modules by the paper's min-max rule",
    ("class-module", "linear"): "class modules by the re-test's linear layer",
    ("whole-strong", "learned"): "the whole strong model, learned, as the ceiling",
    (LONGER, "learned"): "class modules fine-tuned for longer, learned",
    ("random", "learned"): "as many kernels drawn at random, learned",
    ("random", "auto"): "as many kernels drawn at random, learned or linear",
    ("none", "fine-tune"): "the weak model fine-tuned on the same images, without a patch",
    ("none", "last-layer"): "its last layer retrained on the same images, without a patch",
}


def reading(name: str, rows: Sequence[Row]) -> list[str]:
    """Return sentences: what was run, the goals, and all ways on the same weak models."""
    longer, found = by_way(rows, LONGER), by_way(rows, "class-module")
    lines = [_covered(name, rows, found)]
    if not found:
        return [*lines, "Only the whole strong model was the patch: of class modules, nothing."]
    count = len(longer.get((LONGER, "learned"), ()))
    is_for_all = count == len(found["class-module", "learned"])
    if not is_for_all:
        found = {way: shown for way, shown in found.items() if way[0] != LONGER}
    lines += [*_judged(name, found, "class-module"), *_ways(found)]
    if not count:
        return lines
    lines.append(
        f"Class modules that were fine-tuned for longer were tried on {count} weak models:"
    )
    return [*lines, *_judged(name, longer, LONGER), *([] if is_for_all else _ways(longer))]


def with_auto(rows: Sequence[Row]) -> list[Row]:
    """Add the rows of ``auto``: on test images it is the calibration that it takes.

    It decides on the calibration images by the very figures that ``held_out_...`` are, so that no
    such figures of its own are left.
    """
    found: dict[tuple[Case, str], dict[str, Row]] = {}
    for row in rows:
        if row["method"] in ("learned", "linear") and "held_out_f1_change" in row:
            found.setdefault((case(row), row["patch"]), {})[row["method"]] = row
    both = [(each["learned"], each["linear"]) for each in found.values() if len(each) == 2]
    return [*rows, *(_told(_chosen(*pair)) for pair in both)]


def _told(row: Row) -> Row:
    own = {key: value for key, value in row.items() if not key.startswith(("held_out", "guard"))}
    return {**own, "method": "auto"}


def _chosen(learned: Row, linear: Row) -> Row:
    is_as_good = linear["held_out_f1_change"] >= learned["held_out_f1_change"]
    is_better = linear["held_out_other_change"] > learned["held_out_other_change"]
    return linear if is_as_good and is_better else learned


def by_way(rows: Sequence[Row], patch: str) -> dict[Way, list[Row]]:
    """Return the rows of the weak models on which a patch was tried, by patch and method."""
    cases = {case(row) for row in rows if row["patch"] == patch}
    found: dict[Way, list[Row]] = {}
    for row in rows:
        if case(row) in cases:
            found.setdefault((row["patch"], row["method"]), []).append(row)
    return found


def _judged(name: str, found: Mapping[Way, Sequence[Row]], patch: str) -> list[str]:
    """Return which goals a patch meets, and what it keeps of the whole strong model's gain."""
    ways = {"": found[patch, "learned"], "by `auto` ": found.get((patch, "auto"), [])}
    lines = []
    for figure, goal in GOALS[name].items():
        told = [f"{way}{_goal(rows, figure, goal)}" for way, rows in ways.items() if rows]
        lines.append(f"Goal, {NAMES[figure]}, at least {goal:+.1f}: {'; '.join(told)}.")
    if lines:
        told = [f"{way}{_none_worse(rows)}" for way, rows in ways.items() if rows]
        lines.append(f"Goal, F1 worse in none: {'; '.join(told)}.")
    return [*lines, *_guarded(ways[""]), *_shares(found, patch, is_goal=name == "paper")]


def _guarded(rows: Sequence[Row]) -> list[str]:
    """Return for how many patches held-out images show a gain, if this was asked."""
    if not all("guard_helps" in row for row in rows):
        return []
    kept = [row for row in rows if row["guard_helps"]]
    return [
        "All patches are counted, kept by the guard or not; held-out calibration images show a "
        f"gain over the weak model in {len(kept)} of {len(rows)}, of which F1 is worse on the test "
        f"images in {_worse(kept)}."
    ]


def case(row: Row) -> Case:
    """Return which weak model a row is of."""
    return row["weak"], row["target"], row["seed"]


def change(rows: Sequence[Row], figure: str) -> float:
    """Return the mean change of a figure in points."""
    changes: list[float] = [row[f"{figure}_after"] - row[f"{figure}_before"] for row in rows]
    return 100 * mean(changes)


def _covered(name: str, rows: Sequence[Row], found: Mapping[Way, Sequence[Row]]) -> str:
    experiment = EXPERIMENTS[name]
    kinds, targets = list(experiment.weak), len(experiment.targets)
    planned = len(kinds) * targets * SEEDS
    tried = len(found.get(("class-module", "learned"), ()))
    some = {kind: {case(row) for row in rows if row["weak"] == kind} for kind in kinds}
    counts = ", ".join(f"{kind} {len(cases)} of {targets * SEEDS}" for kind, cases in some.items())
    return (
        f"Run so far: {sum(map(len, some.values()))} of {planned} weak models ({counts}), {tried} "
        "with class modules; what follows is about these."
    )


def _shares(found: Mapping[Way, Sequence[Row]], patch: str, *, is_goal: bool) -> list[str]:
    """Return what class modules keep of the whole strong model's gain, and gates of theirs."""
    ours, gated = found[patch, "learned"], found[patch, "learned-gated"]
    kept, runs = (
        100 * mean(row[key] for row in rows)
        for key, rows in (("kept_kernels", ours), ("run_share", gated))
    )
    gain, rest = change(ours, "f1"), change(gated, "f1")
    whole = 100 * gain / change(found["whole-strong", "learned"], "f1")
    share = 100 * rest / gain
    lines = [
        f"{kept:.0f} % of the kernels give {whole:.0f} % of the whole strong model's gain in F1",
        f"gated, class modules run on {runs:.0f} % of the images and keep {share:.0f} % of it",
    ]
    if not is_goal:
        return [f"{line[0].upper()}{line[1:]}." for line in lines]
    goals = (
        f"{GAIN} % of the gain by at most {KERNELS} % of the kernels",
        f"{GAIN} % of the gain by running on at most {RUNS} % of the images",
    )
    met = (round(kept) <= KERNELS and whole >= GAIN, runs <= RUNS and share >= GAIN)
    return [
        f"Goal, {goal}: {_met(good)}, {line}."
        for goal, good, line in zip(goals, met, lines, strict=True)
    ]


def _ways(found: Mapping[Way, Sequence[Row]]) -> list[str]:
    lines = []
    for way, told in WAYS.items():
        rows = found.get(way, [])
        if rows:
            mean_change = f"{change(rows, 'f1'):+.1f} (worse in {_worse(rows)} of {len(rows)})"
            others = f"{change(rows, 'other'):+.1f}"
            lines.append(f"F1 of the target by {told}: {mean_change}; other classes {others}.")
    return lines


def _goal(rows: Sequence[Row], figure: str, goal: float) -> str:
    value = change(rows, figure)
    kinds = sorted({row["weak"] for row in rows})
    parts = (
        f"{kind} {change([row for row in rows if row['weak'] == kind], figure):+.1f}"
        for kind in kinds
    )
    by_kind = f" ({', '.join(parts)})" if len(kinds) > 1 else ""
    return f"{_met(round(value, 1) >= goal)}, {value:+.1f}{by_kind}"


def _none_worse(rows: Sequence[Row]) -> str:
    return f"{_met(not _worse(rows))}, in {_worse(rows)} of {len(rows)}"


def _worse(rows: Sequence[Row]) -> int:
    return sum(row["f1_after"] < row["f1_before"] for row in rows)


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"
