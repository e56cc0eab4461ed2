"""Split a strong model: from a trained CNN and its data to one class module per class."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import sized_values
from cnnsplitter.class_modules import ClassModule, require_same_shape
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate as compensated
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.data.images import class_ranks
from cnnsplitter.engines import Engine, InProcess
from cnnsplitter.errors import ModelError, SettingsError, require_known, require_seed
from cnnsplitter.importance import (
    Importance,
    measure_importance,
    require_every_class,
    uniform_importance,
)
from cnnsplitter.inference import Precision, device_of, precision_on
from cnnsplitter.masked_scoring import MaskedImages
from cnnsplitter.objective import jaccard
from cnnsplitter.progress import Progress, silent
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import (
    GeneticSearch,
    GradientSearch,
    Scorer,
    Search,
    SearchProblem,
    SearchResult,
    compensates,
    default_search,
)
from cnnsplitter.selection import Selection
from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
from cnnsplitter.surgery import extract
from cnnsplitter.taylor import measure_taylor

Unknown = Literal["error", "freeze"]
Units = Literal["conv", "all"]

Measure = Literal["feature-maps", "taylor"]
"""How importance is measured: ``measure_importance``, or ``measure_taylor``."""

IMPORTANCE_IMAGES = 5000
"""At most so many training images measure importance: more do not change the ranking much."""

TAYLOR_IMAGES = 500
"""Likewise for first-order importance, each image of which tells something of every class."""

ROUND_IMAGES, ROUND_IMAGES_OF_A_CLASS = 1000, 20
"""By default so many images, or so many for each class, score what a search that follows gradients
has after each round: it learns from others, and its rounds differ by more than these err."""

GRADIENT_IMAGES = 10_000
"""At most so many training images does a search that follows gradients learn from."""


@dataclass(frozen=True, eq=False)
class Split(Mapping[str, ClassModule]):
    """The class modules of a strong model by class name, and how they were found.

    Attributes:
        modules: One class module per class.
        result: The selections and the search's history.
        kernels_per_unit: int64[units], of the strong model's channel map.
        strong_weights: Digest of the strong model's weights.
        sensitivity: The curves that the search's start ratios came from, if any did.
    """

    modules: Mapping[str, ClassModule]
    result: SearchResult
    kernels_per_unit: Tensor
    strong_weights: str
    sensitivity: Sensitivity | None = None

    def __getitem__(self, name: str) -> ClassModule:
        return self.modules[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.modules)

    def __len__(self) -> int:
        return len(self.modules)

    def overlap(self) -> Tensor:
        """Return float64[classes, classes], the Jaccard index of the kernels that two keep."""
        return jaccard(self.result.selections, self.kernels_per_unit)

    def rows(self, strong: Classifier) -> list[dict[str, str | int | float]]:
        """Return one flat row per class module.

        They tell the shares of ``strong`` that it keeps, and its mean overlap with the others.
        """
        whole = measure_cost(strong, strong.input_shape)
        rows: list[dict[str, str | int | float]] = []
        shared = self.overlap()
        others = (shared.sum(1) - shared.diagonal()) / max(1, len(self) - 1)
        for (name, module), common in zip(self.items(), others.tolist(), strict=True):
            kept = measure_cost(module, module.input_shape).kept_of(whole)
            rows.append({"class": name, **kept, "overlap": common})
        return rows


def as_classifier(model: nn.Module, data: Splits) -> Classifier:
    """Return ``model`` if it is a classifier, else wrap it with the classes of ``data``.

    A wrapped network gets its images as the data set gives them: uint8 scaled to [0, 1], floats
    unchanged.
    """
    if isinstance(model, Classifier):
        return model
    return Classifier(model, data.classes, data.input_shape)


def trace(strong: Classifier, *, units: Units = "conv", unknown: Unknown = "error") -> ChannelMap:
    """Return the channel map of a strong model's network, after checking that it can be used."""
    strong.check()
    return ChannelMap.trace(strong.net, strong.example(), units=units, unknown=unknown)


def trace_of(strong: Classifier, selection: Selection) -> ChannelMap:
    """Return the channel map that ``selection`` is of, whichever units were chosen for it.

    Where it is none of this network's, its plain channel map, which refuses the selection.
    """
    for units in get_args(Units):
        with suppress(ModelError):
            channels = trace(strong, units=units, unknown="freeze")
            if channels.fingerprint == selection.fingerprint:
                return channels
    return trace(strong)


def split(
    strong: nn.Module,
    data: Splits,
    *,
    search: Search | None = None,
    seed: int = 0,
    importance: Importance | Measure = "feature-maps",
    sensitivity: Sensitivity | None = None,
    search_images: int | None = None,
    start: SearchResult | None = None,
    units: Units = "conv",
    compensate: bool | None = None,
    unknown: Unknown = "error",
    checkpoint: Path | None = None,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> Split:
    """Split ``strong`` into one class module per class (method.md, section 2, steps 1 to 5).

    Args:
        strong: The strong model; left as it was.
        data: Importance is measured on ``data.train``, selections are scored on ``data.search``.
        search: How selections are searched; by default the gradient search.
        seed: Of the search and of the choice of images.
        importance: Measured already, or how it is measured here if the search needs it.
        sensitivity: Measured already; by default measured here if the search needs it.
        search_images: At most so many images of ``data.search`` score selections; by default
            all, or for a gradient search ``ROUND_IMAGES``.
        start: What another search of this network found, for a genetic search to begin near.
        units: ``"all"`` takes rows of hidden linear layers for units, too, beside kernels.
        compensate: Whether what is kept takes over what was cut; None: after a gradient search.
        unknown: What an operator that cannot be followed does; see ``ChannelMap.trace``.
        checkpoint: File to resume from and to write after every generation.
        engine: Where selections are scored; by default in this process.
        progress: Called after every step.

    Raises:
        SettingsError: Images of other classes, other importance, or a seed out of range.
        DataError: Images of another shape, or a class without images.
        ModelError: A model that cannot be used or followed.
        StorageError: A checkpoint that belongs to something else.
        EngineError: Workers that cannot be started, or that end again and again.
    """
    classifier, search = as_classifier(strong, data), search or default_search()
    images = search_set(search, data.search, search_images, seed)
    require_usable(classifier, data, images)
    channels = trace(classifier, units=units, unknown=unknown)
    require_layers(search, sensitivity, channels)
    _require_start(start, channels)
    known = importance_for(search, classifier, channels, data.train, seed, progress, importance)
    early = early_precision(search, classifier)
    scorer = CutScorer(classifier, channels, images, early_precision=early)
    with (engine or InProcess()).spread(scorer) as run:
        masked = MaskedImages(classifier, channels, limited(data.train, GRADIENT_IMAGES, seed))
        problem, curves = _problem(scorer, run, masked, search, known, sensitivity, start, progress)
        result = search.run(problem, seed=seed, checkpoint=checkpoint, progress=progress)
    modules = class_modules(classifier, channels, result)
    if compensates(search) if compensate is None else compensate:
        modules = compensated(modules, classifier, channels, data.train, seed=seed)
    return Split(modules, result, channels.kernels_per_unit, classifier.weights_digest(), curves)


def _require_start(start: SearchResult | None, channels: ChannelMap) -> None:
    if start is not None and start.fingerprint != channels.fingerprint:
        raise SettingsError("the start selections are another network's; give those of this one")


def _problem(
    scorer: CutScorer,
    run: Scorer,
    masked: MaskedImages,
    search: Search,
    importance: Importance,
    sensitivity: Sensitivity | None,
    start: SearchResult | None,
    progress: Progress,
) -> tuple[SearchProblem, Sensitivity | None]:
    """Return what is searched, and the sensitivity curves if they are given or needed."""
    labels = scorer.data.labels
    if sensitivity is None and search.needs_sensitivity:
        sensitivity = measure_sensitivity(scorer, importance, labels, run=run, progress=progress)
    problem = SearchProblem(
        channels=scorer.channels,
        classes=scorer.strong.classes,
        importance=importance.scores,
        start_ratios=sensitivity.start_ratios() if sensitivity else {},
        labels=labels,
        scorer=run,
        start=None if start is None else start.selections,
        masked=masked,
    )
    return problem, sensitivity


def require_usable(strong: Classifier, data: Splits, images: ImageSet) -> None:
    """Find before the long work starts what would end it."""
    strong.require_classes(data.classes)
    require_same_shape({"the strong model": strong.input_shape, "the data": data.input_shape})
    require_every_class(images, "the search")


def importance_for(
    search: Search,
    strong: Classifier,
    channels: ChannelMap,
    train: ImageSet,
    seed: int,
    progress: Progress = silent,
    importance: Importance | Measure = "feature-maps",
) -> Importance:
    """Return importance that is known or measured on some images; 1 if ``search`` has no use."""
    if isinstance(importance, Importance):
        _require_own(importance, strong, channels)
        return importance
    require_known("importance", importance, get_args(Measure))
    images = limited(train, IMPORTANCE_IMAGES, seed)
    # start ratios are measured on the most important units
    if not (search.needs_importance or search.needs_sensitivity):
        require_every_class(images, "the search")
        return uniform_importance(channels, len(strong.classes))
    if importance == "taylor":
        return measure_taylor(
            strong, channels, limited(images, TAYLOR_IMAGES, seed), progress=progress
        )
    return measure_importance(strong, channels, images, progress=progress)


def _require_own(importance: Importance, strong: Classifier, channels: ChannelMap) -> None:
    """Raise ``SettingsError`` unless the importance is that of ``strong``, with these weights."""
    if importance.fingerprint != channels.fingerprint:
        raise SettingsError("the importance was measured on another network; measure it on this")
    if importance.weights not in ("", strong.weights_digest()):
        raise SettingsError(
            "the importance was measured on a network with other weights; measure it on this"
        )


def require_layers(search: Search, sensitivity: Sensitivity | None, channels: ChannelMap) -> None:
    """Raise ``SettingsError`` if settings or curves name layers that the network does not have."""
    if isinstance(search, GeneticSearch):
        search.check(channels)
    layers = {group.name for group in channels.groups}
    for name in sorted(layers.symmetric_difference(sensitivity.groups if sensitivity else layers)):
        raise SettingsError(
            f"the sensitivity was measured on another network (layer {name!r}); measure it on this"
        )


def class_modules(
    strong: Classifier, channels: ChannelMap, result: SearchResult
) -> dict[str, ClassModule]:
    """Cut the class modules of a search result out of ``strong``."""
    modules = {}
    for name in result.classes:
        selection = result.selection(name)
        net = extract(strong.net, channels, selection)
        sized = sized_values(channels, selection.keep)
        modules[name] = ClassModule.of(strong, name, net, selection, sized)
    return modules


def search_set(search: Search, images: ImageSet, most: int | None, seed: int) -> ImageSet:
    """Return the images that score selections.

    Their order is one whose beginnings are stratified if those are used.

    Args:
        search: The search.
        images: The search images that there are.
        most: At most so many; None: as many as the search is worth.
        seed: Of the choice.
    """
    if most is None and isinstance(search, GradientSearch):
        most = max(ROUND_IMAGES, ROUND_IMAGES_OF_A_CLASS * len(images.classes))
    require_seed(seed)
    images = limited(images, most, seed)
    if not isinstance(search, GeneticSearch) or not search.early_images:
        return images
    rank = class_ranks(images.labels, torch.arange(len(images)))
    depth = (rank + 0.5) / images.counts()[images.labels]
    return images.take(depth.argsort(stable=True))


def early_precision(search: Search, strong: Classifier) -> Precision:
    """Return the precision in which early generations, if there are any, run ``strong``."""
    wanted = search.early_precision if isinstance(search, GeneticSearch) else "float32"
    return precision_on(device_of(strong), wanted)


def limited(images: ImageSet, most: int | None, seed: int) -> ImageSet:
    """Return at most ``most`` of the images, in the same proportions of classes."""
    if most is None or most >= len(images):
        return images
    return images.sample(most, torch.Generator().manual_seed(seed))
