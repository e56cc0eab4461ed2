"""Models as files that run without this package: ONNX, and PyTorch's exported programs."""

from cnnsplitter.exporting.facts import InputType
from cnnsplitter.exporting.formats import describe_export, is_export
from cnnsplitter.exporting.writing import TOLERANCE, Exported, export

__all__ = [
    "TOLERANCE",
    "Exported",
    "InputType",
    "describe_export",
    "export",
    "is_export",
]
