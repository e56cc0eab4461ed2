"""The search for a sub-task's network: one selection for all its classes, scored by margins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.evaluation import evaluate
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.progress import Progress, silent
from cnnsplitter.search import GeneticSearch, MarginProblem, Search, SearchResult
from cnnsplitter.selection import Selection
from cnnsplitter.sensitivity import measure_sensitivity
from cnnsplitter.splitting import (
    IMPORTANCE_IMAGES,
    as_classifier,
    limited,
    require_importance,
    require_layers,
    require_usable,
    trace,
)
from cnnsplitter.subtasks import Subtask, cut, restrict

Row = Mapping[str, str | int | float]


@dataclass(frozen=True, eq=False)
class FoundSubtask:
    """A sub-task network and how it was found.

    Attributes:
        model: The network.
        strong: The strong model restricted to the sub-task's classes.
        result: The selection, as that of a single class with the sub-task's name, and the history.
        strong_weights: Digest of the whole strong model's weights.
    """

    model: Subtask
    strong: Classifier
    result: SearchResult
    strong_weights: str

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
class MarginScorer:
    """Cuts each candidate out of a strong model and measures its margins.

    Attributes:
        strong: The strong model, restricted to the sub-task's classes.
        channels: Channel map of ``strong.net``.
        data: The search images of these classes.
        batch_size: Images at a time.
    """

    strong: Classifier
    channels: ChannelMap
    data: ImageSet
    batch_size: int = 256

    def __call__(self, owner: Tensor, keep: Tensor) -> Tensor:
        """Score candidates.

        Args:
            owner: int64[k], all 0.
            keep: bool[k, units].

        Returns:
            float32[k, n], by how much the right class's logit leads the others.
        """
        return torch.cat(
            [self._margins(narrow_copy(self.strong.net, self.channels, row)) for row in keep]
        )

    def whole(self) -> Tensor:
        """Return the margins float32[1, n] of the strong model itself."""
        return self._margins(self.strong.net)

    def _margins(self, net: nn.Module) -> Tensor:
        logits = predict(Subtask.of(self.strong, net), self.data, batch_size=self.batch_size)
        own = self.data.labels[:, None]
        others = logits.scatter(1, own, -torch.inf).amax(dim=1)
        return (logits.gather(1, own)[:, 0] - others)[None]


def subtask(
    strong: nn.Module,
    classes: Iterable[str],
    data: Splits,
    *,
    search: Search | None = None,
    seed: int = 0,
    importance: Importance | None = None,
    search_images: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress = silent,
) -> FoundSubtask:
    """Cut one narrow network for some classes out of ``strong``; no weight is changed.

    Args:
        strong: The strong model; left as it was.
        classes: The sub-task's classes, at least two.
        data: Images of the strong model's classes, or of more; those of ``classes`` are used, as
            in ``split``.
        search: Any search: it meets a problem with a single selection (``MarginProblem``).
        seed: Of the search and of the choice of images.
        importance: Measured already, on the model that ``restrict`` gives; by default measured
            here.
        search_images: At most so many images score selections.
        checkpoint: File to resume from and to write after every generation.
        progress: Called after every step.

    Raises:
        SettingsError: Classes or settings that do not fit the model.
        DataError: Images of another shape, or a class without images.
        ModelError: A model that cannot be used, followed, or restricted to these classes.
        StorageError: A checkpoint that belongs to something else.
    """
    whole = as_classifier(strong, data)
    search = search or GeneticSearch()
    restricted = restrict(whole, classes)
    data = data.relabel(restricted.classes)
    images = limited(data.search, search_images, seed)
    require_usable(restricted, data, images)
    channels = trace(restricted)
    require_layers(search, None, channels)
    if importance is None:
        train = limited(data.train, IMPORTANCE_IMAGES, seed)
        importance = measure_importance(restricted, channels, train, progress=progress)
    require_importance(importance, channels)
    scorer = MarginScorer(restricted, channels, images)
    problem = margin_problem(scorer, merged(importance), search, progress)
    result = search.run(problem, seed=seed, checkpoint=checkpoint, progress=progress)
    selection = Selection(result.selections[0], result.fingerprint)
    model = cut(restricted, channels, selection)
    return FoundSubtask(model, restricted, result, whole.weights_digest())


def merged(importance: Importance) -> Importance:
    """Return the importance of every unit for all classes together, as that of one class."""
    return Importance(
        importance.scores.sum(dim=0, keepdim=True),
        importance.samples.sum(dim=0, keepdim=True),
        importance.confident.all(dim=0, keepdim=True),
        importance.fingerprint,
    )


def margin_problem(
    scorer: MarginScorer, importance: Importance, search: Search, progress: Progress = silent
) -> MarginProblem:
    """Return the problem of one selection for all classes of ``scorer``, for any search.

    Args:
        scorer: Knows the strong model, its channel map and the search images.
        importance: Of one class; see ``merged``.
        search: Start ratios are measured if it needs them.
        progress: Called after every step.
    """
    labels = torch.zeros_like(scorer.data.labels)
    ratios: dict[str, tuple[float, ...]] = {}
    if search.needs_sensitivity:
        curves = measure_sensitivity(scorer, importance, labels, progress=progress)
        ratios = curves.start_ratios()
    name = "+".join(scorer.strong.classes)
    return MarginProblem(scorer.channels, (name,), importance.scores, ratios, labels, scorer)
