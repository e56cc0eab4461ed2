"""Save and load models: one safetensors file with a JSON manifest in its header, never a pickle."""

import math
from collections.abc import Callable, Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from cnnsplitter.calibration import calibration_from_json
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.errors import CnnSplitterError, StorageError
from cnnsplitter.files import read_tensors, write_tensors
from cnnsplitter.inference import eval_mode
from cnnsplitter.manifest import (
    AnyFile,
    ArchitecturePart,
    ClassifierFile,
    ClassModuleFile,
    ClassModulePart,
    ComposedFile,
    NetPart,
    PatchedFile,
    PatchPart,
)
from cnnsplitter.models import build_from
from cnnsplitter.patching import Patch, PatchedModel
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.selection import Selection
from cnnsplitter.surgery import adopt_sizes

Model = Classifier | ClassModule | ComposedModel | PatchedModel
Builder = Callable[[str], nn.Module]
"""Gives the full network of a part: "net" or "weak", or the source class of a class module."""
Tensors = dict[str, Tensor]
M = TypeVar("M")

_SELECTION = "selection"


def save(
    model: Model,
    path: str | Path,
    *,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write ``model`` to one file, whole or not at all.

    Args:
        model: A classifier, class module, composed or patched model.
        path: The file, usually ``*.safetensors``.
        details: JSON values to keep with it: seed, settings, metrics.
        overwrite: Whether an existing file may be replaced.

    Raises:
        StorageError: The file exists, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise StorageError(f"{path}: exists already; choose another name or allow to overwrite it")
    manifest, tensors = _pack(model, dict(details or {}))
    write_tensors(path, tensors, manifest.model_dump(mode="json"))


def load(path: str | Path, *, build: Builder | None = None) -> Model:
    """Read what ``save`` wrote; the model gives the same outputs as the one that was saved.

    Args:
        path: The file.
        build: Builds the full network of a part, for networks that are not this package's.

    Raises:
        StorageError: The file is missing, damaged, foreign, too new, or needs ``build``.
    """
    path = Path(path)
    tensors, manifest = _read(path)
    try:
        return _unpack(manifest, tensors, build)
    except CnnSplitterError as error:
        raise StorageError(f"{path}: {error}") from error


def load_as(kind: type[M], path: str | Path, *, build: Builder | None = None) -> M:
    """Read a file that must hold a model of one kind, such as ``ClassModule``."""
    model = load(path, build=build)
    if not isinstance(model, kind):
        raise StorageError(f"{path}: holds a {type(model).__name__}, not a {kind.__name__}")
    return model


def describe(path: str | Path) -> dict[str, Any]:
    """Return the manifest of a file as JSON values, its details included."""
    return _read(Path(path))[1].model_dump(mode="json")


def _read(path: Path) -> tuple[Tensors, AnyFile]:
    tensors, manifest = read_tensors(path)
    try:
        return tensors, TypeAdapter(AnyFile).validate_python(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "kind"
        raise StorageError(f"{path}: its manifest is wrong at {place!r}: {first['msg']}") from error


@singledispatch
def _pack(model: Any, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    raise StorageError(f"a {type(model).__name__} cannot be saved; wrap it in a cnnsplitter model")


@_pack.register
def _(model: Classifier, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    return ClassifierFile(net=_net_part(model), details=details), _prefixed("net", model.net)


@_pack.register
def _(model: ClassModule, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    return ClassModuleFile(module=_module_part(model), details=details), _module_tensors(0, model)


@_pack.register
def _(model: ComposedModel, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    calibrations = model.calibrations
    file = ComposedFile(
        modules=tuple(_module_part(m) for m in model.class_modules),
        calibrations=None if calibrations is None else tuple(c.to_json() for c in calibrations),
        details=details,
    )
    return file, _all_module_tensors(model.class_modules)


@_pack.register
def _(model: PatchedModel, details: dict[str, Any]) -> tuple[AnyFile, Tensors]:
    patches = tuple(
        PatchPart(
            target=p.target, calibration=p.calibration.to_json(), module=_module_part(p.module)
        )
        for p in model.patches
    )
    file = PatchedFile(
        weak=_net_part(model.weak), patches=patches, rule=model.rule, details=details
    )
    modules = tuple(p.module for p in model.patches)
    return file, _prefixed("weak", model.weak.net) | _all_module_tensors(modules)


def _net_fields(model: Classifier | ClassModule) -> dict[str, Any]:
    architecture = model.architecture and ArchitecturePart(
        name=model.architecture.name, arguments=dict(model.architecture.arguments)
    )
    return {
        "classes": model.classes,
        "input_shape": model.input_shape,
        "mean": model.preprocessing.mean,
        "std": model.preprocessing.std,
        "architecture": architecture,
    }


def _net_part(model: Classifier) -> NetPart:
    return NetPart(**_net_fields(model))


def _module_part(model: ClassModule) -> ClassModulePart:
    return ClassModulePart(
        **_net_fields(model),
        source_class=model.source_class,
        sized=dict(model.sized),
        fingerprint=None if model.selection is None else model.selection.fingerprint,
    )


def _prefixed(prefix: str, net: nn.Module) -> Tensors:
    return {f"{prefix}.{name}": tensor for name, tensor in net.state_dict().items()}


def _module_tensors(number: int, model: ClassModule) -> Tensors:
    tensors = _prefixed(f"module{number}", model.net)
    if model.selection is not None:
        tensors[f"{_SELECTION}{number}"] = model.selection.keep
    return tensors


def _all_module_tensors(models: tuple[ClassModule, ...]) -> Tensors:
    return {k: v for i, m in enumerate(models) for k, v in _module_tensors(i, m).items()}


def _unpack(file: AnyFile, tensors: Tensors, build: Builder | None) -> Model:
    match file:
        case ClassifierFile():
            return _classifier("net", file.net, tensors, build)
        case ClassModuleFile():
            return _class_module(0, file.module, tensors, build)
        case ComposedFile():
            modules = [_class_module(i, m, tensors, build) for i, m in enumerate(file.modules)]
            calibrations = file.calibrations
            return ComposedModel(
                modules,
                None if calibrations is None else [calibration_from_json(c) for c in calibrations],
            )
        case PatchedFile():
            patches = [
                Patch(
                    p.target,
                    _class_module(i, p.module, tensors, build),
                    calibration_from_json(p.calibration),
                )
                for i, p in enumerate(file.patches)
            ]
            return PatchedModel(
                _classifier("weak", file.weak, tensors, build), patches, rule=file.rule
            )


def _classifier(prefix: str, part: NetPart, tensors: Tensors, build: Builder | None) -> Classifier:
    net = _net(prefix, prefix, part, tensors, {}, build)
    classifier = Classifier(
        net, part.classes, part.input_shape, Preprocessing(part.mean, part.std), _architecture(part)
    )
    classifier.check()
    return classifier.eval()


def _class_module(
    number: int, part: ClassModulePart, tensors: Tensors, build: Builder | None
) -> ClassModule:
    selection = None
    if part.fingerprint is not None:
        if f"{_SELECTION}{number}" not in tensors:
            raise StorageError(f"tensor '{_SELECTION}{number}' is missing; write the file again")
        selection = Selection(tensors[f"{_SELECTION}{number}"], part.fingerprint)
    module = ClassModule(
        _net(f"module{number}", part.source_class, part, tensors, part.sized, build),
        part.source_class,
        part.classes,
        part.input_shape,
        Preprocessing(part.mean, part.std),
        _architecture(part),
        selection,
        part.sized,
    )
    _require_runs(module)
    return module


def _architecture(part: NetPart) -> Architecture | None:
    known = part.architecture
    return None if known is None else Architecture(known.name, known.arguments)


def _net(
    prefix: str,
    name: str,
    part: NetPart,
    tensors: Tensors,
    sized: Mapping[str, tuple[int, ...]],
    build: Builder | None,
) -> nn.Module:
    architecture = _architecture(part)
    if architecture is not None:
        net = build_from(architecture)
    elif build is not None:
        net = build(name)
    else:
        raise StorageError(
            f"the network of {name!r} is not one of cnnsplitter's; pass build= to construct it"
        )
    start = len(prefix) + 1
    own = {key[start:]: t for key, t in tensors.items() if key.startswith(f"{prefix}.")}
    _resize(net, own)
    _require_sized(net, sized)
    adopt_sizes(net, sized)
    net.load_state_dict(own)
    return net


def _resize(net: nn.Module, tensors: Tensors) -> None:
    """Give every parameter and buffer of the full ``net`` the shape and type that was saved."""
    full = net.state_dict()
    if full.keys() != tensors.keys():
        odd = sorted(full.keys() ^ tensors.keys())
        raise StorageError(f"tensors do not fit the network: {', '.join(odd[:3])}")
    for name, tensor in tensors.items():
        shape = full[name].shape
        fits = tensor.ndim == len(shape) and all(map(int.__le__, tensor.shape, shape))
        if not fits or (math.prod(tensor.shape) == 0 and math.prod(shape) != 0):
            raise StorageError(f"tensor {name!r} has shape {tuple(tensor.shape)} of {tuple(shape)}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise StorageError(f"tensor {name!r} holds NaN or infinite values")
        path, _, attribute = name.rpartition(".")
        owner = net.get_submodule(path)
        empty = torch.empty_like(tensor)
        if attribute in owner._parameters:
            setattr(owner, attribute, nn.Parameter(empty, requires_grad=tensor.is_floating_point()))
        else:
            setattr(owner, attribute, empty)


def _require_sized(net: nn.Module, sized: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse to set anything but tuples of numbers that the network already has."""
    modules = dict(net.named_modules())
    for name, value in sized.items():
        path, _, attribute = name.rpartition(".")
        present = vars(modules[path]).get(attribute) if path in modules else None
        if not isinstance(present, tuple) or len(present) != len(value):
            raise StorageError(f"the network has no sizes {name!r} to set")


def _require_runs(module: ClassModule) -> None:
    parameter = next(module.parameters())
    example = torch.zeros(1, *module.input_shape, dtype=parameter.dtype)
    try:
        with eval_mode(module), torch.no_grad():
            module(example)
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StorageError(
            f"class module {module.source_class!r} does not run: {reason}"
        ) from error
