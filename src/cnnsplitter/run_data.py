"""The images of a run: what its strong model has seen tells nothing about its weak models."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from cnnsplitter.data import Splits, load_data, twin_warning, unseen
from cnnsplitter.data.sources import source_parts
from cnnsplitter.errors import require_known
from cnnsplitter.progress import Progress, silent
from cnnsplitter.recipes import TARGET, DataSettings, Recipe


@dataclass(frozen=True)
class RunData:
    """The images of one recipe.

    Attributes:
        recipe: Names them.
        places: Name of a data set in the recipe to the file or folder that is to be read instead.
        progress: Called while folders are opened.
    """

    recipe: Recipe
    places: Mapping[str, str]
    progress: Progress = silent

    @cached_property
    def strong(self) -> Splits:
        """The strong model's images."""
        return self._load(self.recipe.strong_data, self.recipe.strong_data.source)

    def weak(self, target: str) -> Splits:
        """Return the images of the weak model that is poor at ``target``.

        Its held-out images are unknown to the strong model: see ``unseen``.
        """
        data = self._weak(target)[0]
        require_known("target class of the weak model", target, data.classes)
        most = self.recipe.weak.target_images
        return data if most is None else _with_scarce_class(data, target, most, self.recipe.seed)

    def remarks(self) -> list[str]:
        """Return what a person should know about the test images, a line each."""
        targets = {self.source(target): target for target in self.recipe.patch.targets}
        return [line for target in targets.values() for line in self._remarks_on(target)]

    def _remarks_on(self, target: str) -> list[str]:
        data, left_out = self._weak(target)
        lines = [twin_warning(data.train, data.test)]
        if self._is_from_elsewhere(target):
            lines.append(twin_warning(self.strong.train, data.test))
        if left_out:
            lines.append(
                f"left out {left_out} images for calibration or test that the strong model knows "
                "from training or search"
            )
        return [f"{self.source(target)}: {line}" for line in dict.fromkeys(lines) if line]

    @cached_property
    def _opened(self) -> dict[str, tuple[Splits, int]]:
        return {}

    def _weak(self, target: str) -> tuple[Splits, int]:
        """Return the images and how many were left out; only the last source stays open."""
        source = self.source(target)
        if source not in self._opened:
            whole = data = self._load(self.recipe.weak_data, source)
            if self._is_from_elsewhere(target):
                data = unseen(whole, self.strong)
            self._opened.clear()
            self._opened[source] = data, sum(map(len, whole.sets)) - sum(map(len, data.sets))
        return self._opened[source]

    def source(self, target: str) -> str:
        """Return the source of the weak model's images, with ``target`` filled in."""
        return self.recipe.weak_data.source.replace(TARGET, target)

    def _is_from_elsewhere(self, target: str) -> bool:
        """Return whether both models' sets may differ in where an image goes."""
        strong, weak = self.recipe.strong_data, self.recipe.weak_data
        bases = {part.base for part in source_parts(strong.source)}
        others = {part.base for part in source_parts(self.source(target))}
        return strong.shares != weak.shares or not others <= bases

    def _load(self, settings: DataSettings, source: str) -> Splits:
        data = load_data(
            source,
            places=self.places,
            shares=settings.shares,
            seed=self.recipe.seed,
            progress=self.progress,
        )
        return data.balanced(self.recipe.seed) if settings.balance else data


def _with_scarce_class(data: Splits, target: str, most: int, seed: int) -> Splits:
    """Leave at most ``most`` training images of ``target``."""
    label = data.classes.index(target)
    positions = (data.train.labels == label).nonzero().flatten()
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(len(data.train), dtype=torch.bool)
    keep[positions[order[most:]]] = False
    return Splits(data.train.take(keep), data.search, data.calibration, data.test)
