"""Split a trained CNN into one small CNN per class, compose them, and patch a weak CNN."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cnnsplitter.baking import bake
    from cnnsplitter.calibration import Calibration
    from cnnsplitter.channels import ChannelMap
    from cnnsplitter.class_modules import ClassModule, ComposedModel, compose
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.compensation.compensating import compensate
    from cnnsplitter.composition import fit_composition
    from cnnsplitter.cost import Cost, measure_cost
    from cnnsplitter.data import ImageSet, Splits, SplitShares, load_data, make_splits
    from cnnsplitter.engines import Processes, RayCluster
    from cnnsplitter.errors import CnnSplitterError
    from cnnsplitter.evaluation import Comparison, Evaluation, compare, evaluate
    from cnnsplitter.exporting import Exported, export
    from cnnsplitter.finetuning import FineTuning, fine_tune
    from cnnsplitter.hub import load_folder, pull_from_hub, push_to_hub, save_folder
    from cnnsplitter.importance import Importance, measure_importance
    from cnnsplitter.models import build_model
    from cnnsplitter.patches.diagnosis import diagnose
    from cnnsplitter.patches.fitting import Fitting
    from cnnsplitter.patches.gating import Gate
    from cnnsplitter.patches.guard import judge
    from cnnsplitter.patches.patching import PatchedModel, patch
    from cnnsplitter.preprocessing import IMAGENET, Preprocessing
    from cnnsplitter.recalibration import recalibrate
    from cnnsplitter.search import (
        GeneticSearch,
        GradientSearch,
        RandomSearch,
        SearchResult,
        ThresholdSearch,
    )
    from cnnsplitter.selection import Selection
    from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
    from cnnsplitter.splitting import Split, split
    from cnnsplitter.storage.saving import load, save
    from cnnsplitter.subtasks.networks import Subtask, restrict, unite
    from cnnsplitter.subtasks.searching import subtask
    from cnnsplitter.surgery import extract, masked_forward
    from cnnsplitter.taylor import measure_taylor
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
    "Exported": "exporting",
    "FineTuning": "finetuning",
    "Fitting": "patches.fitting",
    "Gate": "patches.gating",
    "GeneticSearch": "search",
    "GradientSearch": "search",
    "IMAGENET": "preprocessing",
    "ImageSet": "data",
    "Importance": "importance",
    "PatchedModel": "patches.patching",
    "Preprocessing": "preprocessing",
    "Processes": "engines",
    "RayCluster": "engines",
    "RandomSearch": "search",
    "SearchResult": "search",
    "Selection": "selection",
    "Sensitivity": "sensitivity",
    "Split": "splitting",
    "SplitShares": "data",
    "Splits": "data",
    "Subtask": "subtasks.networks",
    "ThresholdSearch": "search",
    "Training": "training",
    "bake": "baking",
    "build_model": "models",
    "compare": "evaluation",
    "compensate": "compensation.compensating",
    "compose": "class_modules",
    "diagnose": "patches.diagnosis",
    "evaluate": "evaluation",
    "export": "exporting",
    "extract": "surgery",
    "fine_tune": "finetuning",
    "fit_composition": "composition",
    "judge": "patches.guard",
    "load": "storage.saving",
    "load_data": "data",
    "load_folder": "hub",
    "load_weights": "weights",
    "make_splits": "data",
    "masked_forward": "surgery",
    "measure_cost": "cost",
    "measure_importance": "importance",
    "measure_sensitivity": "sensitivity",
    "measure_taylor": "taylor",
    "patch": "patches.patching",
    "pull_from_hub": "hub",
    "push_to_hub": "hub",
    "recalibrate": "recalibration",
    "restrict": "subtasks.networks",
    "save": "storage.saving",
    "save_folder": "hub",
    "split": "splitting",
    "subtask": "subtasks.searching",
    "train": "training",
    "unite": "subtasks.networks",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package loads no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
