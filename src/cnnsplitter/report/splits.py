"""Facts for reports of splits and of sub-tasks: what a search found, and how."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import Splits
from cnnsplitter.objective import jaccard
from cnnsplitter.report.facts import Report, Step
from cnnsplitter.report.gathering import data_row, made_by, model_costs, name_of
from cnnsplitter.results import Row
from cnnsplitter.search import GeneticSearch, Search, SearchResult
from cnnsplitter.sensitivity import Sensitivity
from cnnsplitter.splitting import Split, trace_of
from cnnsplitter.subtasks.networks import Subtask
from cnnsplitter.subtasks.searching import FoundSubtask


def search_facts(
    found: Split | FoundSubtask, channels: ChannelMap, search: Search
) -> dict[str, Any]:
    """Return what a report tells of a search and of the selections that it found."""
    curves, selections = found.sensitivity, found.result.selections
    return {
        "classes": list(found.result.classes),
        "layers": [group.name for group in channels.groups],
        "kept": _kept_by_layer(channels, found.result),
        "overlap": jaccard(selections, channels.kernels_per_unit).tolist(),
        "history": [Step(**vars(step)) for step in found.result.history],
        "sensitivity": curves.to_json() if curves else None,
        "start_ratios": _starts(search, channels, curves),
    }


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
    return Report(
        title=f"Split of {settings['strong']}",
        strong_accuracy=figures["strong_accuracy"],
        composed_accuracy=figures["composed_accuracy"],
        modules=figures["modules"],
        costs=model_costs({"strong": strong, "composed": compose(found)}, data.test),
        **_searched(found, strong, data, search, settings),
    )


def report_subtask(
    found: FoundSubtask,
    model: Subtask,
    data: Splits,
    search: Search,
    ways: Sequence[Row],
    settings: Mapping[str, Any],
) -> Report:
    """Return the report of a sub-task.

    Args:
        found: How its network was found.
        model: The network, after all tuning.
        data: Images of the sub-task's classes.
        search: What found it.
        ways: See ``FoundSubtask.rows``.
        settings: As for ``report_split``.
    """
    accuracy: dict[Any, Any] = {row["model"]: row["accuracy"] for row in ways}
    costs = [measure_cost(one, one.input_shape) for one in (model, found.strong)]
    (name,) = found.result.classes
    return Report(
        title=f"Sub-task of {settings['strong']}",
        strong_accuracy=accuracy["strong model"],
        composed_accuracy=accuracy["sub-task"],
        modules=[{"network of": name, **costs[0].kept_of(costs[1])}],
        subtask=list(model.classes),
        ways=list(ways),
        costs=model_costs({"strong": found.strong, "sub-task": model}, data.test),
        **_searched(found, found.strong, data, search, settings),
    )


def _searched(
    found: Split | FoundSubtask,
    strong: Classifier,
    data: Splits,
    search: Search,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what reports of a split and of a sub-task tell alike."""
    stages = [str(row["stage"]) for row in settings.get("tuning") or ()]
    channels = trace_of(strong, found.result.selection(found.result.classes[0]))
    return {
        "strong_model": name_of(strong),
        "data": [data_row("strong model", settings["data"], data)],
        **search_facts(found, channels, search),
        "patches": [],
        "evidence": [],
        "recipe": {key: settings[key] for key in settings if key not in ("search", "versions")},
        "search": {**settings["search"], "compensated": "compensated" in stages},
        **made_by(),
    }


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
