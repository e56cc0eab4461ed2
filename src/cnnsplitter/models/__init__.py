"""The networks of the papers: layers and forward, nothing else; and how others are named."""

from cnnsplitter.models.factories import build_with_factory
from cnnsplitter.models.references import (
    Scalar,
    as_options,
    is_factory,
    parse_arguments,
    require_scalars,
)
from cnnsplitter.models.registry import (
    MODELS,
    build_from,
    build_model,
    initialise,
    require_reference,
    shadow_from,
)

__all__ = [
    "MODELS",
    "Scalar",
    "as_options",
    "build_from",
    "build_model",
    "build_with_factory",
    "initialise",
    "is_factory",
    "parse_arguments",
    "require_reference",
    "require_scalars",
    "shadow_from",
]
