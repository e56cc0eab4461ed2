"""Searches for the units that each class module keeps."""

from cnnsplitter.search.base import (
    Generation,
    MaskedScorer,
    Scorer,
    Search,
    SearchProblem,
    SearchResult,
    UnitMap,
)
from cnnsplitter.search.genetic import GeneticSearch
from cnnsplitter.search.gradient import GradientSearch
from cnnsplitter.search.presets import StartRatios

__all__ = [
    "Generation",
    "GeneticSearch",
    "GradientSearch",
    "MaskedScorer",
    "Scorer",
    "Search",
    "SearchProblem",
    "SearchResult",
    "StartRatios",
    "UnitMap",
]
