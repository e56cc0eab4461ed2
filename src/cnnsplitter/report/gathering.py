"""Facts for reports: what those of whole runs and of mere splits tell alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ComposedModel, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.patches.cost import timed_images
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.report.evidence import Evidence, gather_evidence
from cnnsplitter.report.facts import Report, Step
from cnnsplitter.results import Row, command_line, machine, versions
from cnnsplitter.search import GeneticSearch, Search, SearchResult
from cnnsplitter.sensitivity import Sensitivity
from cnnsplitter.splitting import Split, trace_of


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


def split_facts(found: Split, channels: ChannelMap, search: Search) -> dict[str, Any]:
    """Return what a report tells of class modules and of the search that found them."""
    curves = found.sensitivity
    return {
        "classes": list(found.result.classes),
        "layers": [group.name for group in channels.groups],
        "kept": _kept_by_layer(channels, found.result),
        "overlap": found.overlap().tolist(),
        "history": [Step(**vars(step)) for step in found.result.history],
        "sensitivity": curves.to_json() if curves else None,
        "start_ratios": _starts(search, channels, curves),
    }


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


def report_split(
    found: Split,
    strong: Classifier,
    data: Splits,
    search: Search,
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Report:
    """Return the report of a split that is no part of a recipe's run.

    Args:
        found: The class modules.
        strong: The strong model.
        data: Its images.
        search: What found them.
        figures: ``strong_accuracy`` and ``composed_accuracy`` on test images, and ``modules``.
        settings: ``strong``, the name of its file; ``data``, the images' source; ``seed``;
            ``search``, its name and settings; ``tuning``, one row per stage if there was any.
    """
    stages = [str(row["stage"]) for row in settings.get("tuning", ())]
    channels = trace_of(strong, found.result.selection(found.result.classes[0]))
    architecture = strong.architecture

    return Report(
        title=f"Split of {settings['strong']}",
        strong_model=architecture.name if architecture else type(strong.net).__name__,
        data=[data_row("strong model", settings["data"], data)],
        strong_accuracy=figures["strong_accuracy"],
        composed_accuracy=figures["composed_accuracy"],
        modules=figures["modules"],
        **split_facts(found, channels, search),
        patches=[],
        evidence=[],
        costs=model_costs({"strong": strong, "composed": compose(found)}, data.test),
        recipe={name: settings[name] for name in settings if name not in ("search", "versions")},
        search={**settings["search"], "compensated": "compensated" in stages},
        **made_by(),
    )


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
    targets, architecture = [str(row["target"]) for row in figures], patched.weak.architecture
    return Report(
        title=f"Patch of {settings['weak']}",
        weak_model=architecture.name if architecture else type(patched.weak.net).__name__,
        data=[data_row(f"weak model, {name}", settings["data"], data) for name in targets],
        patches=list(figures),
        evidence=[gather_evidence(patched, name, data.test) for name in targets],
        costs=list(costs),
        recipe=dict(settings),
        **made_by(),
    )


def _kept_by_layer(channels: ChannelMap, result: SearchResult) -> list[list[float]]:
    """Return the share of kernels that each class module keeps of each layer, [classes][layers]."""
    weights = channels.kernels_per_unit.double()
    return [
        [
            ((weights * keep)[group.units].sum() / weights[group.units].sum()).item()
            for group in channels.groups
        ]
        for keep in result.selections
    ]


def _starts(
    search: Search, channels: ChannelMap, curves: Sensitivity | None
) -> dict[str, list[float]]:
    """Return layer to the keep-ratios that ``search`` starts from; none if it starts from none."""
    if not isinstance(search, GeneticSearch):
        return {}
    starts = search.ratios_for(channels, curves.start_ratios() if curves else {})
    return {layer: list(ratios) for layer, ratios in starts.items()}
