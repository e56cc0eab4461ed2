"""What the search for a sub-task's network would do."""

from dataclasses import replace
from pathlib import Path

from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits
from cnnsplitter.planning.base import Plan
from cnnsplitter.planning.plans import plan_split
from cnnsplitter.planning.steps import step
from cnnsplitter.results import Row
from cnnsplitter.search.registry import AnySearch
from cnnsplitter.splitting import Units, Unknown


def plan_subtask(
    restricted: Classifier,
    data: Splits,
    search: AnySearch,
    search_images: int | None,
    out: Path,
    *,
    units: Units = "conv",
    unknown: Unknown = "error",
    compare: bool = True,
    seed: int = 0,
) -> Plan:
    """Return what the search for a sub-task's network would do; errors as for ``plan_split``.

    It searches one selection for all classes, where class modules need one for each.

    Args:
        restricted: The strong model, restricted to the sub-task's classes.
        data: Images of these classes.
        search: How the selection is searched.
        search_images: At most so many score it.
        out: The file that is written.
        units: See ``splitting.split``.
        unknown: Likewise.
        compare: Whether class modules of the same classes are searched, too.
        seed: Of what is timed.
    """
    plan = plan_split(
        restricted, data, search, search_images, [out], units=units, unknown=unknown, seed=seed
    )
    own = tuple(_shared(row, len(restricted.classes)) for row in plan.steps)
    others = tuple({**row, "step": f"class modules: {row['step']}"} for row in plan.steps)
    return replace(plan, steps=(*own, *others) if compare else own)


def _shared(row: Row, classes: int) -> Row:
    """Return the step of class modules for one selection; importance is of all classes anyway."""
    if row["step"] == "importance":
        return row
    seconds = row["seconds"]
    work = f"one selection for {classes} classes"
    return step(str(row["step"]), work, None if seconds is None else float(seconds) / classes)
