"""Split a trained CNN into one small CNN per class, compose them, and patch a weak CNN."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnsplitter.calibration import Calibration
    from cnnsplitter.channels import ChannelMap
    from cnnsplitter.class_modules import ClassModule, ComposedModel, compose
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.cost import Cost, measure_cost
    from cnnsplitter.data import ImageSet, Splits, SplitShares, load_data, make_splits
    from cnnsplitter.errors import CnnSplitterError
    from cnnsplitter.evaluation import Comparison, Evaluation, compare, evaluate
    from cnnsplitter.importance import Importance, measure_importance
    from cnnsplitter.models import build_model
    from cnnsplitter.patching import PatchedModel, patch
    from cnnsplitter.preprocessing import IMAGENET, Preprocessing
    from cnnsplitter.search import GeneticSearch, GradientSearch, SearchResult
    from cnnsplitter.selection import Selection
    from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
    from cnnsplitter.splitting import Split, split
    from cnnsplitter.storage import load, save
    from cnnsplitter.surgery import extract, masked_forward
    from cnnsplitter.training import Training, train
    from cnnsplitter.weights import load_weights

_HOME = {
    "Calibration": "calibration",
    "ChannelMap": "channels",
    "ClassModule": "class_modules",
    "Classifier": "classifier",
    "CnnSplitterError": "errors",
    "Comparison": "evaluation",
    "ComposedModel": "class_modules",
    "Cost": "cost",
    "Evaluation": "evaluation",
    "GeneticSearch": "search",
    "GradientSearch": "search",
    "IMAGENET": "preprocessing",
    "ImageSet": "data",
    "Importance": "importance",
    "PatchedModel": "patching",
    "Preprocessing": "preprocessing",
    "SearchResult": "search",
    "Selection": "selection",
    "Sensitivity": "sensitivity",
    "Split": "splitting",
    "SplitShares": "data",
    "Splits": "data",
    "Training": "training",
    "build_model": "models",
    "compare": "evaluation",
    "compose": "class_modules",
    "evaluate": "evaluation",
    "extract": "surgery",
    "load": "storage",
    "load_data": "data",
    "load_weights": "weights",
    "make_splits": "data",
    "masked_forward": "surgery",
    "measure_cost": "cost",
    "measure_importance": "importance",
    "measure_sensitivity": "sensitivity",
    "patch": "patching",
    "save": "storage",
    "split": "splitting",
    "train": "training",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
