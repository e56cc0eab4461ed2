"""The baseline that every search has to beat: selections drawn at random."""

import torch
from torch import Generator, Tensor

from cnnsplitter.search.base import SearchProblem
from cnnsplitter.search.budget import Budget
from cnnsplitter.search.tries import BestOfTries


class RandomSearch(BestOfTries):
    """Keep units at random within a budget; of several ensembles the most accurate.

    Example:
        >>> RandomSearch(keep=0.5).tries
        1
    """

    @property
    def needs_importance(self) -> bool:
        """Chance alone decides."""
        return False

    def draw(self, problem: SearchProblem, number: int, generator: Generator) -> Tensor:
        """Draw every class's units on their own.

        Args:
            problem: What to search.
            number: Number of the try.
            generator: Source of randomness.

        Returns:
            bool[classes, units].
        """
        priority = torch.rand(problem.importance.shape, generator=generator)
        return Budget.of(problem, self.target).best(priority, self.keep)
