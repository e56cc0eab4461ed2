"""Facts for reports: what all of them tell alike, and what those of patches tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnsplitter.class_modules import ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.patches.cost import timed_images
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.report.evidence import Evidence, gather_evidence
from cnnsplitter.report.facts import Report
from cnnsplitter.results import Row, command_line, machine, versions


@dataclass(frozen=True)
class PatchFacts:
    """What a report tells of one patch.

    Attributes:
        row: Its figures, see ``Report.patches``.
        evidence: What it did.
        costs: One row per model.
        data: The weak model's images, see ``data_row``.
    """

    row: Row
    evidence: Evidence
    costs: Sequence[Row]
    data: Row


def data_row(owner: str, source: str, data: Splits) -> Row:
    """Return whose images ``data`` are, and how many serve what."""
    counts = {name: len(images) for name, images in vars(data).items()}
    return {"of": owner, "source": source, "classes": len(data.train.classes), **counts}


def model_costs(models: Mapping[str, Classifier | ComposedModel], images: ImageSet) -> list[Row]:
    """Return one row per model, with how many images were run at once while it was timed."""
    at_once = len(timed_images(images))
    costs = {
        name: measure_cost(model, model.input_shape, latency=True, batch_size=at_once)
        for name, model in models.items()
    }
    return [{"model": n, **vars(cost), "images_at_once": at_once} for n, cost in costs.items()]


def made_by() -> dict[str, Any]:
    """Return what a report tells of where and how it was made."""
    return {"machine": machine(), "versions": versions(), "commands": [command_line()]}


def name_of(model: Classifier) -> str:
    """Return what a report calls a model: its architecture, or the class of its network."""
    architecture = model.architecture
    return architecture.name if architecture else type(model.net).__name__


def report_patches(
    patched: PatchedModel,
    data: Splits,
    figures: Sequence[Row],
    costs: Sequence[Row],
    settings: Mapping[str, Any],
) -> Report:
    """Return the report of patches that are no part of a recipe's run.

    Args:
        patched: The patched model.
        data: Its images.
        figures: One row per patch, see ``Report.patches``.
        costs: One row per model.
        settings: ``weak``, the name of its file; ``data``, the images' source; and the rest.
    """
    targets = [str(row["target"]) for row in figures]
    return Report(
        title=f"Patch of {settings['weak']}",
        weak_model=name_of(patched.weak),
        data=[data_row(f"weak model, {name}", settings["data"], data) for name in targets],
        patches=list(figures),
        evidence=[gather_evidence(patched, name, data.test) for name in targets],
        costs=list(costs),
        recipe=dict(settings),
        **made_by(),
    )
