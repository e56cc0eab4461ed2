"""The planted problem of the contracts, with float masks for searches that follow gradients."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cnnsplitter.search import SearchProblem
from contracts import PlantedScorer, planted


@dataclass(eq=False)
class PlantedMasked:
    """The planted scorer with float masks, on images of its own."""

    scorer: PlantedScorer
    units: int

    @property
    def labels(self) -> Tensor:
        return self.scorer.labels

    @property
    def logits(self) -> Tensor:
        """Of a strong model that keeps the helpful units only, so that they are worth finding."""
        classes, images = self.scorer.noise.shape
        owner = torch.arange(classes).repeat(images)
        image = torch.arange(images).repeat_interleave(classes)
        return self(image, owner, self.scorer.helpful[owner].float()).view(images, classes)

    def __call__(self, images: Tensor, owner: Tensor, masks: Tensor) -> Tensor:
        effect = torch.where(self.scorer.helpful[owner], 1.0, -1.0)
        sign = torch.where(self.labels[images] == owner, 1.0, -1.0)
        return (masks * effect).sum(1) / self.units * sign + self.scorer.noise[owner, images]

    def multiply_adds(self, masks: Tensor) -> Tensor:
        return masks.double().sum(-1) ** 2


def with_gradients(problem: SearchProblem) -> SearchProblem:
    masked = PlantedMasked(planted(problem), problem.channels.unit_count)
    return replace(problem, masked=masked)
