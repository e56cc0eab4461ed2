"""The networks of the papers: layers and forward, nothing else."""

from cnnsplitter.models.registry import MODELS, build_from, build_model, initialise

__all__ = ["MODELS", "build_from", "build_model", "initialise"]
