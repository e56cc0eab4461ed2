"""What an exported file tells about itself, for those who have neither package nor paper."""

from functools import singledispatch
from typing import Any, Literal

from cnnsplitter import __version__
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.packing import Model, pack

InputType = Literal["uint8", "float32"]
KEY = "cnnsplitter"
"""Under which the facts are kept as JSON in the file's metadata."""

INPUT, OUTPUT, BATCH = "images", "scores", "batch"
"""Names of the input, of the output, and of the axis of any length that both begin with."""

_RANGES = {"uint8": [0, 255], "float32": [0.0, 1.0]}


def facts_of(model: Model, input_type: InputType) -> dict[str, Any]:
    """Return the metadata of an exported model as JSON values.

    ``input`` and ``output`` say what to give and what comes back, ``classes`` names the columns of
    the output, and ``model`` is what a saved file tells: preprocessing (already in the graph),
    source classes, patch targets, calibrations.

    Raises:
        StorageError: It is no model of this package.
    """
    manifest = pack(model, {})[0].model_dump(mode="json", exclude={"details"})
    columns = _columns(model)
    single = isinstance(model, ClassModule)
    return {
        "version": __version__,
        "kind": manifest["kind"],
        "classes": list(columns),
        "input": {
            "name": INPUT,
            "type": input_type,
            "shape": [BATCH, *model.input_shape],
            "range": _RANGES[input_type],
            "preprocessing": "in the graph",
        },
        "output": {
            "name": OUTPUT,
            "type": "float32",
            "shape": [BATCH] if single else [BATCH, len(columns)],
            "meaning": _meaning(model),
        },
        "model": manifest,
    }


def are_calibrated(model: Model) -> bool:
    """Tell whether the model's scores are on the scale of probabilities."""
    if isinstance(model, ComposedModel):
        return model.calibrations is not None
    return isinstance(model, PatchedModel)


def _columns(model: Model) -> tuple[str, ...]:
    return (model.source_class,) if isinstance(model, ClassModule) else model.classes


@singledispatch
def _meaning(model: Model) -> str:
    raise AssertionError(f"no meaning is written down for a {type(model).__name__}")


@_meaning.register
def _(model: Classifier) -> str:
    return "logits; the largest names the class, their softmax gives probabilities"


@_meaning.register
def _(model: ClassModule) -> str:
    return f"raw score of {model.source_class}, one per image; not a probability"


@_meaning.register
def _(model: ComposedModel) -> str:
    kind = "raw" if model.calibrations is None else "calibrated"
    return f"{kind} scores of the class modules; the largest names the class"


@_meaning.register
def _(model: PatchedModel) -> str:
    if model.rule == "replace":
        return "probabilities, patched ones replaced by calibrated scores; rows need not sum to 1"
    return "probabilities; every row sums to 1"
