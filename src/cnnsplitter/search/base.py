"""What every search takes and returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from cnnsplitter.errors import DataError, ModelError, SelectionError, require_known
from cnnsplitter.progress import Progress, silent
from cnnsplitter.selection import Selection


class Scorer(Protocol):
    """Runs class modules on the search images."""

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Return the own-class scores float32[k, n] of k class modules on n search images.

        Args:
            owner: int64[k], the index of each module's class.
            keep: bool[k, units].
            images: Run only so many, the first ones, and as roughly as the scorer is set to; only
                searches with early generations do.
        """
        ...


class Layer(Protocol):
    """A convolution of the network."""

    @property
    def name(self) -> str:
        """Its module path."""
        ...


class UnitGroup(Protocol):
    """A layer of the search: the units of one convolution, or of several tied ones."""

    @property
    def name(self) -> str:
        """Name of the group."""
        ...

    @property
    def layers(self) -> Sequence[str]:
        """Names of the convolutions that hold these units."""
        ...

    @property
    def units(self) -> Tensor:
        """int64[k], the units; the groups partition all units."""
        ...


class UnitMap(Protocol):
    """The part of a channel map that a search needs."""

    @property
    def unit_count(self) -> int:
        """Number of units."""
        ...

    @property
    def layers(self) -> Sequence[Layer]:
        """The convolutions in the order of the network."""
        ...

    @property
    def groups(self) -> Sequence[UnitGroup]:
        """The layers of the search."""
        ...

    @property
    def kernels_per_unit(self) -> Tensor:
        """int64[units]."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the network's channel structure."""
        ...

    def fill(self, keep: Tensor, priority: Tensor) -> Tensor:
        """Return bool[..., units] with the best unit of every emptied layer turned on."""
        ...


class MaskedScorer(Protocol):
    """The strong model on its training images, with masks that gradients flow through."""

    @property
    def labels(self) -> Tensor:
        """int64[m], class index of every training image, on the CPU."""
        ...

    @property
    def logits(self) -> Tensor:
        """float32[m, classes] of the whole strong model on the training images, on the CPU."""
        ...

    def __call__(self, images: Tensor, owner: Tensor, masks: Tensor) -> Tensor:
        """Return the own-class scores float[k] of k pairs of an image and a class module.

        Args:
            images: int64[k], which training image.
            owner: int64[k], the class of each module.
            masks: float[k, units], 1 where a unit is kept and 0 where it is not.
        """
        ...

    def multiply_adds(self, masks: Tensor) -> Tensor:
        """Return the multiply-adds float64[...] of networks with masks [..., units]."""
        ...


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """Everything a search needs to know about a strong model and its search images.

    Attributes:
        channels: The channel map of the strong model.
        classes: Names of the classes, one class module each; at least two.
        importance: float32[classes, units].
        start_ratios: Group name to the keep-ratios that a start selection draws from.
        labels: int64[n], class index of every search image; each class has at least one.
        scorer: Runs class modules on the search images.
        start: bool[classes, units], selections found otherwise that the search begins near; None
            begins anew.
        masked: Runs masked class modules on the training images; only searches that follow
            gradients need it.
    """

    channels: UnitMap
    classes: tuple[str, ...]
    importance: Tensor
    start_ratios: Mapping[str, tuple[float, ...]]
    labels: Tensor
    scorer: Scorer
    start: Tensor | None = None
    masked: MaskedScorer | None = None

    least_classes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if len(self.classes) < self.least_classes:
            raise DataError(f"a search needs at least 2 classes; got {', '.join(self.classes)}")
        if self.channels.unit_count == 0:
            raise ModelError("the network has no removable kernels: there is nothing to search")
        shape = (len(self.classes), self.channels.unit_count)
        if tuple(self.importance.shape) != shape:
            raise SelectionError(
                f"importance must be [classes, units] = {list(shape)}; "
                f"got {list(self.importance.shape)}: measure it on this network and these classes"
            )
        if self.start is not None and tuple(self.start.shape) != shape:
            raise SelectionError(
                f"start selections must be [classes, units] = {list(shape)}; "
                f"got {list(self.start.shape)}: take those of this network and these classes"
            )
        counts = self.labels.bincount(minlength=len(self.classes))
        if len(counts) > len(self.classes):
            raise DataError(f"label {len(counts) - 1} among {len(self.classes)} classes")
        empty = [name for name, count in zip(self.classes, counts, strict=True) if count == 0]
        if empty:
            raise DataError(f"no search image of class {empty[0]!r}; add some or drop the class")

    def kept_macs(self, keep: Tensor) -> float | None:
        """Return the mean share of the strong model's multiply-adds that class modules need.

        Args:
            keep: bool[classes, units].

        Returns:
            None where there is no masked scorer, which counts them.
        """
        if self.masked is None:
            return None
        rows = torch.cat([keep, torch.ones_like(keep[:1])]).float()
        *kept, whole = self.masked.multiply_adds(rows).tolist()
        return float(sum(kept) / len(kept) / whole)


@dataclass(frozen=True, eq=False)
class MarginProblem(SearchProblem):
    """The search of one selection for several classes at once, a sub-task.

    ``classes`` holds one name, that of the sub-task, and all ``labels`` are 0. The scorer gives
    margins: by how much the right class's logit leads the others', so that an image is right
    where its margin is positive.
    """

    least_classes: ClassVar[int] = 1


@dataclass(frozen=True)
class Generation:
    """The best ensemble of one generation; shares lie between 0 and 1.

    Attributes:
        index: Number of the generation, from 0.
        accuracy: Accuracy of the composed model on the search images.
        difference: Mean of 1 - Jaccard over its pairs of class modules.
        kept: Mean share of the kernels that its class modules keep.
        fitness: Its fitness, whose weights may change between generations.
        measure: The figure that compares generations; its weights are the same in all.
        evaluations: Class modules that were run on the search images in this generation.
        early: Whether they were run on a part of the images only, so that its figures do not
            compare with those of other generations.
        kept_macs: Mean share of the strong model's multiply-adds that its class modules need, None
            where nothing counts them.
    """

    index: int
    accuracy: float
    difference: float
    kept: float
    fitness: float
    measure: float
    evaluations: int
    early: bool = False
    kept_macs: float | None = None


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best ensemble seen.

    Attributes:
        classes: Names of the classes.
        selections: bool[classes, units], the units that each class module keeps.
        fingerprint: Fingerprint of the channel map that numbers the units.
        history: One entry per generation.
    """

    classes: tuple[str, ...]
    selections: Tensor
    fingerprint: str
    history: tuple[Generation, ...]

    @property
    def best(self) -> Generation:
        """The generation of the best ensemble: the first of highest measure on all images."""
        whole = (generation for generation in self.history if not generation.early)
        return max(whole, key=lambda generation: generation.measure)

    @property
    def best_generation(self) -> int:
        """Number of the generation in which the best ensemble was seen."""
        return self.best.index

    @property
    def accuracy(self) -> float:
        """Accuracy of the best ensemble on the search images, between 0 and 1."""
        return self.best.accuracy

    def selection(self, name: str) -> Selection:
        """Return the selection of the class called ``name``.

        Raises:
            SettingsError: There is no such class.
        """
        require_known("class", name, self.classes)
        return Selection(self.selections[self.classes.index(name)], self.fingerprint)


class Search(Protocol):
    """A way to find good selections."""

    @property
    def needs_sensitivity(self) -> bool:
        """Whether `SearchProblem.start_ratios` are used, so that they have to be measured."""
        ...

    @property
    def needs_importance(self) -> bool:
        """Whether `SearchProblem.importance` is used; if not, it need not be measured."""
        ...

    def run(
        self,
        problem: SearchProblem,
        *,
        seed: int,
        checkpoint: Path | None = None,
        progress: Progress = silent,
    ) -> SearchResult:
        """Search, continuing from ``checkpoint`` if that file exists.

        Args:
            problem: What to search.
            seed: Seed of every random choice; equal seeds give equal results.
            checkpoint: File that is rewritten after each generation.
            progress: Called after each generation.

        Raises:
            StorageError: The checkpoint is broken or belongs to another search.
        """
        ...
