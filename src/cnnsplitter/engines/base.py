"""What an engine is, and the simplest: the process that searches also runs the candidates."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import Scorer


class Engine(Protocol):
    """A place to run candidates."""

    def spread(self, scorer: CutScorer) -> AbstractContextManager[Scorer]:
        """Give, for a block, a scorer that runs the candidates here.

        Its scores are those of ``scorer``, bit for bit, on machines of the same kind.

        Raises:
            EngineError: Workers cannot be started; in the block, workers that end again and again.
        """
        ...


class InProcess:
    """Runs candidates in this process, on as many of its threads as PyTorch may use."""

    def spread(self, scorer: CutScorer) -> AbstractContextManager[Scorer]:
        """Give ``scorer`` itself."""
        return nullcontext(scorer)
