"""From a model to what a file holds of it: a manifest and named tensors."""

from dataclasses import asdict
from functools import singledispatch
from typing import Any

from torch import Tensor, nn

from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import StorageError, defined_at
from cnnsplitter.models.references import is_factory
from cnnsplitter.nets import user_hooks
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.selection import Selection
from cnnsplitter.storage.manifest import (
    AnyFile,
    ArchitecturePart,
    ClassifierFile,
    ClassModuleFile,
    ClassModulePart,
    ComposedFile,
    GatePart,
    NetPart,
    PatchedFile,
    PatchPart,
    SelectionPart,
    SubtaskFile,
    SubtaskPart,
)
from cnnsplitter.subtasks.networks import Subtask

Model = Classifier | ClassModule | ComposedModel | PatchedModel | Subtask
Tensors = dict[str, Tensor]


@singledispatch
def pack(model: Any, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    """Return the manifest and the tensors of a model; the tensors are shared, not copied.

    Raises:
        StorageError: It is no model of this package.
    """
    raise StorageError(f"a {type(model).__name__} cannot be saved; wrap it in a cnnsplitter model")


@pack.register
def _(model: Classifier, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    return ClassifierFile(net=_net_part(model), details=details), _prefixed("net", model.net)


@pack.register
def _(model: Subtask, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    part = SubtaskPart(
        **_net_fields(model),
        sized=dict(model.sized),
        selection=_selection_part(model.selection),
    )
    tensors = _prefixed("net", model.net) | _selection_tensors(0, model.selection)
    return SubtaskFile(net=part, details=details), tensors


@pack.register
def _(model: ClassModule, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    return ClassModuleFile(module=_module_part(model), details=details), _module_tensors(0, model)


@pack.register
def _(model: ComposedModel, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    calibrations = model.calibrations
    file = ComposedFile(
        modules=tuple(_module_part(m) for m in model.class_modules),
        calibrations=None if calibrations is None else tuple(c.to_json() for c in calibrations),
        details=details,
    )
    return file, _all_module_tensors(model.class_modules)


@pack.register
def _(model: PatchedModel, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    if isinstance(model.weak, Subtask):
        raise StorageError("a patched sub-task network cannot be saved; save it and its patch")
    patches = tuple(
        PatchPart(
            target=p.target,
            calibration=p.calibration.to_json(),
            module=_module_part(p.module),
            gate=None if p.gate is None else GatePart(**asdict(p.gate)),
        )
        for p in model.patches
    )
    file = PatchedFile(
        weak=_net_part(model.weak),
        patches=patches,
        rule=model.rule,
        classes=model.classes,
        details=details,
    )
    modules = tuple(p.module for p in model.patches)
    return file, _prefixed("weak", model.weak.net) | _all_module_tensors(modules)


def module_prefix(number: int) -> str:
    """Return the prefix of the tensors of a file's class module ``number``."""
    return f"module{number}"


def selection_name(number: int) -> str:
    """Return the name of the tensor that holds the selection of class module ``number``."""
    return f"selection{number}"


def _net_fields(model: Classifier | ClassModule) -> dict[str, Any]:
    _require_no_hooks(model)
    architecture = model.architecture and ArchitecturePart(
        name=model.architecture.name,
        arguments=dict(model.architecture.arguments),
        baked=model.architecture.baked,
    )
    return {
        "classes": model.classes,
        "input_shape": model.input_shape,
        "mean": model.preprocessing.mean,
        "std": model.preprocessing.std,
        "architecture": architecture,
    }


def _require_no_hooks(model: Classifier | ClassModule) -> None:
    """Refuse what a file cannot hold and a builder by name does not bring back."""
    architecture = model.architecture
    if architecture is None or is_factory(architecture.name):
        return
    for path, hook in user_hooks(model.net):
        raise StorageError(
            f"layer {path!r} has a forward hook ({defined_at(hook)}) that a file cannot hold; "
            "remove it if it only records, or build the network by a factory that registers it"
        )


def _net_part(model: Classifier) -> NetPart:
    return NetPart(**_net_fields(model))


def _module_part(model: ClassModule) -> ClassModulePart:
    return ClassModulePart(
        **_net_fields(model),
        source_class=model.source_class,
        sized=dict(model.sized),
        selection=_selection_part(model.selection),
    )


def _selection_part(kept: Selection | None) -> SelectionPart | None:
    if kept is None:
        return None
    return SelectionPart(units=len(kept.keep), fingerprint=kept.fingerprint)


def _selection_tensors(number: int, kept: Selection | None) -> Tensors:
    return {} if kept is None else {selection_name(number): kept.keep}


def _prefixed(prefix: str, net: nn.Module) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in net.state_dict().items()}


def _module_tensors(number: int, model: ClassModule) -> Tensors:
    own = _prefixed(module_prefix(number), model.net)
    return own | _selection_tensors(number, model.selection)


def _all_module_tensors(models: tuple[ClassModule, ...]) -> Tensors:
    return {k: v for i, m in enumerate(models) for k, v in _module_tensors(i, m).items()}
