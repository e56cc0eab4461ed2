from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cnnsplitter.search import GradientSearch, SearchProblem
from contracts import PlantedScorer, SearchContract, ToyChannels, planted, planted_problem

SMALL = {"keep": 0.6, "steps": 8, "anneal": 2, "pairs": 40, "start_pairs": 40, "rate": 0.1, "start": "random"}


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
        classes = len(self.scorer.helpful)
        owner = torch.arange(classes)
        return self.scores(torch.arange(len(self.labels)), self.scorer.helpful.float(), owner)

    def scores(self, images: Tensor, masks: Tensor, owner: Tensor) -> Tensor:
        effect = torch.where(self.scorer.helpful[owner], 1.0, -1.0)
        strength = (masks * effect).sum(1) / self.units
        sign = torch.where(self.labels[images] == owner[:, None], 1.0, -1.0)
        return (strength[:, None] * sign + self.scorer.noise[owner][:, images]).T

    def __call__(self, images: Tensor, owner: Tensor, masks: Tensor) -> Tensor:
        effect = torch.where(self.scorer.helpful[owner], 1.0, -1.0)
        sign = torch.where(self.labels[images] == owner, 1.0, -1.0)
        return (masks * effect).sum(1) / self.units * sign + self.scorer.noise[owner, images]

    def multiply_adds(self, masks: Tensor) -> Tensor:
        return masks.double().sum(-1) ** 2


def with_gradients(problem: SearchProblem) -> SearchProblem:
    masked = PlantedMasked(planted(problem), problem.channels.unit_count)
    return replace(problem, masked=masked)


def small_problem(seed: int = 0) -> SearchProblem:
    return with_gradients(planted_problem(ToyChannels((8, 12, 12), tied=(1, 2)), seed=seed))


def small_search(rounds: int, **settings: object) -> GradientSearch:
    return GradientSearch.model_validate({**SMALL, "rounds": rounds, **settings})


class TestStraightThrough(SearchContract):
    def problem(self, seed: int = 0) -> SearchProblem:
        return small_problem(seed)

    def search(self, generations: int) -> GradientSearch:
        return small_search(generations)


class TestHardConcrete(TestStraightThrough):
    def search(self, generations: int) -> GradientSearch:
        return small_search(
            generations,
            gate="hard-concrete",
            form="both",
            scaled=True,
            target="multiply-adds",
        )


class TestPaper(TestStraightThrough):
    def search(self, generations: int) -> GradientSearch:
        paper = GradientSearch.paper(keep=0.6).model_dump()
        return GradientSearch.model_validate({**paper, "steps": 8, "rounds": generations})
