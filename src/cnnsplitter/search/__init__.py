"""Searches for the units that each class module keeps."""

from cnnsplitter.search.base import (
    Generation,
    MarginProblem,
    MaskedScorer,
    Scorer,
    Search,
    SearchProblem,
    SearchResult,
    UnitMap,
)
from cnnsplitter.search.genetic import GeneticSearch
from cnnsplitter.search.gradient.searching import GradientSearch
from cnnsplitter.search.presets import StartRatios
from cnnsplitter.search.random_search import RandomSearch
from cnnsplitter.search.registry import (
    DEFAULT_SEARCH,
    SEARCHES,
    compensates,
    default_search,
    make_search,
)
from cnnsplitter.search.thresholding import ThresholdSearch

__all__ = [
    "DEFAULT_SEARCH",
    "SEARCHES",
    "Generation",
    "GeneticSearch",
    "GradientSearch",
    "MarginProblem",
    "MaskedScorer",
    "RandomSearch",
    "Scorer",
    "Search",
    "SearchProblem",
    "SearchResult",
    "StartRatios",
    "ThresholdSearch",
    "UnitMap",
    "compensates",
    "default_search",
    "make_search",
]
