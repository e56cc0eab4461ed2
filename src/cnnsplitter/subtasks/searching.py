"""The search for a sub-task's network: one selection for all its classes, scored by margins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.engines import Engine, InProcess
from cnnsplitter.evaluation import evaluate
from cnnsplitter.importance import Importance
from cnnsplitter.inference import predict
from cnnsplitter.masked_scoring import MaskedImages, MaskedMargins
from cnnsplitter.progress import Progress, silent
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import MarginProblem, Scorer, Search, SearchResult, default_search
from cnnsplitter.selection import Selection
from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
from cnnsplitter.splitting import (
    GRADIENT_IMAGES,
    Measure,
    Units,
    Unknown,
    as_classifier,
    early_precision,
    importance_for,
    limited,
    require_layers,
    require_usable,
    search_set,
    trace,
)
from cnnsplitter.subtasks.networks import Subtask, cut, restrict

Row = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class FoundSubtask:
    """A sub-task network and how it was found.

    Attributes:
        model: The network.
        strong: The strong model restricted to the sub-task's classes.
        result: The selection, as that of a single class with the sub-task's name, and the history.
        strong_weights: Digest of the whole strong model's weights.
        sensitivity: The curves behind the start ratios, if the search needed any.
    """

    model: Subtask
    strong: Classifier
    result: SearchResult
    strong_weights: str
    sensitivity: Sensitivity | None = None

    def rows(
        self,
        images: ImageSet,
        modules: Mapping[str, ClassModule] | None = None,
        tuned: Subtask | None = None,
    ) -> list[Row]:
        """Return one row for each way to do the sub-task: its accuracy and what it costs.

        Args:
            images: Of any classes; those of the sub-task are used.
            modules: Class modules of the sub-task's classes, to compare with.
            tuned: What tuning made of the network: it is the sub-task's then, and the network as
                it was cut is the plain one.
        """
        models: dict[str, nn.Module] = {"strong model": self.strong}
        models |= {"sub-task": tuned or self.model}
        if tuned is not None:
            models["plain sub-task"] = self.model
        if modules is not None:
            models["class modules"] = compose([modules[name] for name in self.model.classes])
        images = images.relabel(self.model.classes)
        whole = measure_cost(self.strong, images.images.shape)
        rows: list[Row] = []
        for name, model in models.items():
            cost = measure_cost(model, images.images.shape)
            rows.append(
                {
                    "model": name,
                    "accuracy": evaluate(model, images).accuracy,
                    "kernels": cost.kernels,
                    "macs": cost.multiply_adds,
                    "kept_macs": cost.relative_to(whole).multiply_adds,
                }
            )
        return rows


@dataclass(frozen=True, eq=False)
class MarginScorer(CutScorer):
    """Cuts each candidate out of a strong model and measures its margins.

    A score is by how much the right class's logit leads the others; every ``owner`` is 0.

    Attributes:
        strong: The strong model, restricted to the sub-task's classes.
        channels: Channel map of ``strong.net``.
        data: The search images of these classes.
        batch_size: Images at a time.
        early_precision: See ``CutScorer``.
    """

    def whole(self) -> Tensor:
        """Return the margins float32[1, n] of the strong model itself."""
        logits = predict(self.strong, self.data, batch_size=self.batch_size)
        return self._read(logits, 0, self.data.labels)[None]

    def _read(self, logits: Tensor, owner: int, labels: Tensor) -> Tensor:
        own = labels.to(logits.device)[:, None]
        others = logits.scatter(1, own, -torch.inf).amax(dim=1)
        return logits.gather(1, own)[:, 0] - others


def subtask(
    strong: nn.Module,
    classes: Iterable[str],
    data: Splits,
    *,
    search: Search | None = None,
    seed: int = 0,
    importance: Importance | Measure = "feature-maps",
    search_images: int | None = None,
    units: Units = "conv",
    unknown: Unknown = "error",
    checkpoint: Path | None = None,
    engine: Engine | None = None,
    progress: Progress = silent,
) -> FoundSubtask:
    """Cut one narrow network for some classes out of ``strong``; no weight is changed.

    Args:
        strong: The strong model; left as it was.
        classes: The sub-task's classes, at least two.
        data: Images of the strong model's classes, or of more; those of ``classes`` are used, as
            in ``split``.
        search: Any search, by default the gradient search: it meets a problem with a single
            selection (``MarginProblem``).
        seed: Of the search and of the choice of images.
        importance: Measured already, on the model that ``restrict`` gives, or how it is measured
            here if the search needs it.
        search_images: At most so many images score selections; see ``split``.
        units: ``"all"`` takes rows of hidden linear layers for units, too, beside kernels.
        unknown: What an operator that cannot be followed does; see ``ChannelMap.trace``.
        checkpoint: File to resume from and to write after every generation.
        engine: Where selections are scored; by default in this process.
        progress: Called after every step.

    Raises:
        SettingsError: Classes or settings that do not fit the model.
        DataError: Images of another shape, or a class without images.
        ModelError: A model that cannot be used, followed, or restricted to these classes.
        StorageError: A checkpoint that belongs to something else.
        EngineError: Workers that cannot be started, or that end again and again.
    """
    whole = as_classifier(strong, data)
    search, restricted = search or default_search(), restrict(whole, classes)
    data = data.relabel(restricted.classes)
    images = search_set(search, data.search, search_images, seed)
    require_usable(restricted, data, images)
    channels = trace(restricted, units=units, unknown=unknown)
    require_layers(search, None, channels)
    of_each = importance_for(search, restricted, channels, data.train, seed, progress, importance)
    early = early_precision(search, restricted)
    scorer = MarginScorer(restricted, channels, images, early_precision=early)
    known = merged(of_each)
    masked = MaskedImages(restricted, channels, limited(data.train, GRADIENT_IMAGES, seed))
    with (engine or InProcess()).spread(scorer) as run:
        curves = _curves(scorer, run, known, search, progress)
        problem = _problem(scorer, run, masked, known, curves)
        result = search.run(problem, seed=seed, checkpoint=checkpoint, progress=progress)
    model = cut(restricted, channels, Selection(result.selections[0], result.fingerprint))
    return FoundSubtask(model, restricted, result, whole.weights_digest(), curves)


def merged(importance: Importance) -> Importance:
    """Return the importance of every unit for all classes together, as that of one class."""
    return Importance(
        importance.scores.sum(dim=0, keepdim=True),
        importance.samples.sum(dim=0, keepdim=True),
        importance.confident.all(dim=0, keepdim=True),
        importance.fingerprint,
        importance.weights,
    )


def _one_class(images: ImageSet) -> Tensor:
    """Return int64[n], the labels of a sub-task's images as those of a single class."""
    return torch.zeros_like(images.labels)


def _curves(
    scorer: MarginScorer, run: Scorer, importance: Importance, search: Search, progress: Progress
) -> Sensitivity | None:
    if not search.needs_sensitivity:
        return None
    labels = _one_class(scorer.data)
    return measure_sensitivity(scorer, importance, labels, run=run, progress=progress)


def _problem(
    scorer: MarginScorer,
    run: Scorer,
    masked: MaskedImages,
    importance: Importance,
    curves: Sensitivity | None,
) -> MarginProblem:
    """Return the problem of one selection for all classes, whose scores ``run`` gives."""
    return MarginProblem(
        channels=scorer.channels,
        classes=("+".join(scorer.strong.classes),),
        importance=importance.scores,
        start_ratios=curves.start_ratios() if curves else {},
        labels=_one_class(scorer.data),
        scorer=run,
        masked=MaskedMargins(masked),
    )
