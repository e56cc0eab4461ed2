"""From what a file holds, which nobody vouches for, back to a model."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from cnnsplitter.calibration import calibration_from_json
from cnnsplitter.channels.cutting import Sizes, adopt_sizes
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.errors import CnnSplitterError, StorageError
from cnnsplitter.models import as_options, build_from, is_factory, shadow_from
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.selection import Selection
from cnnsplitter.storage.manifest import (
    AnyFile,
    ClassifierFile,
    ClassModuleFile,
    ClassModulePart,
    ComposedFile,
    NetPart,
    PatchedFile,
    SelectionPart,
    SubtaskFile,
)
from cnnsplitter.storage.packing import Model, Tensors, module_prefix, selection_name
from cnnsplitter.storage.trial import is_light
from cnnsplitter.subtasks.networks import Subtask

Builder = Callable[[str], nn.Module]
"""Gives the full network of a part: "net" or "weak", or the source class of a class module."""

_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def unpack(file: AnyFile, tensors: Tensors, build: Builder | None) -> Model:
    """Return the model of a manifest and its tensors.

    Raises:
        CnnSplitterError: They do not fit each other, or a network needs ``build``.
    """
    model = _model_of(file, _Parts(tensors, build))
    _require_no_others(file, tensors)
    return model


def _model_of(file: AnyFile, parts: "_Parts") -> Model:
    match file:
        case ClassifierFile():
            return parts.classifier("net", "net", file.net)
        case ClassModuleFile():
            return parts.class_module(0, file.module)
        case SubtaskFile():
            narrow = parts.classifier("net", "net", file.net, file.net.sized)
            selection = parts.selection(0, file.net.selection)
            return Subtask.of(narrow, narrow.net, selection, file.net.sized)
        case ComposedFile():
            modules = [parts.class_module(i, m) for i, m in enumerate(file.modules)]
            calibrations = file.calibrations
            return ComposedModel(
                modules,
                None if calibrations is None else [calibration_from_json(c) for c in calibrations],
            )
        case PatchedFile():
            patches = [
                Patch(
                    p.target,
                    parts.class_module(i, p.module),
                    calibration_from_json(p.calibration),
                    None if p.gate is None else Gate(p.gate.doubt, p.gate.threshold),
                )
                for i, p in enumerate(file.patches)
            ]
            weak = parts.classifier("weak", "weak", file.weak)
            return PatchedModel(weak, patches, file.rule, file.classes)


def _require_no_others(file: AnyFile, tensors: Tensors) -> None:
    """Refuse tensors that belong to no part of the file."""
    match file:
        case ClassifierFile() | SubtaskFile():
            prefixes, count = ["net"], 1
        case ClassModuleFile():
            prefixes, count = [module_prefix(0)], 1
        case ComposedFile() | PatchedFile():
            count = len(file.modules if isinstance(file, ComposedFile) else file.patches)
            prefixes = ["weak", *(module_prefix(number) for number in range(count))]
    known = {*prefixes, *(selection_name(number) for number in range(count))}
    odd = sorted(name for name in tensors if name.partition(".")[0] not in known)
    if odd:
        raise StorageError(f"tensors that belong to no part: {', '.join(odd[:3])}")


@dataclass(frozen=True, eq=False)
class _Parts:
    tensors: Tensors
    build: Builder | None

    def classifier(
        self,
        prefix: str,
        name: str,
        part: NetPart,
        sized: Sizes = MappingProxyType({}),
    ) -> Classifier:
        """Return the network whose tensors begin with ``prefix``, after a trial run."""
        known = part.architecture
        architecture = (
            None if known is None else Architecture(known.name, known.arguments, known.baked)
        )
        start = f"{prefix}."
        own = {k.removeprefix(start): t for k, t in self.tensors.items() if k.startswith(start)}
        try:
            net = self._net(name, architecture, own)
        except StorageError as error:
            if architecture is None or not is_factory(architecture.name):
                raise
            made = as_options(architecture.name, architecture.arguments)
            raise StorageError(f"{error}; the network was built by {made}") from error
        _require_sizes(net, sized)
        adopt_sizes(net, sized)
        preprocessing = Preprocessing(part.mean, part.std)
        classifier = Classifier(net, part.classes, part.input_shape, preprocessing, architecture)
        classifier.check(trial=is_light(classifier))
        return classifier.eval()

    def class_module(self, number: int, part: ClassModulePart) -> ClassModule:
        name = part.source_class
        try:
            selection = self.selection(number, part.selection)
            strong = self.classifier(module_prefix(number), name, part, part.sized)
            return ClassModule.of(strong, name, strong.net, selection, part.sized)
        except CnnSplitterError as error:
            raise StorageError(f"class module {name!r}: {error}") from error

    def selection(self, number: int, part: SelectionPart | None) -> Selection | None:
        """Return the selection of part ``number``."""
        if part is None:
            return None
        keep = self.tensors.get(selection_name(number))
        if keep is None or keep.shape != (part.units,):
            raise StorageError(
                f"tensor {selection_name(number)!r} must be there and hold {part.units} units"
            )
        return Selection(keep.clone(), part.fingerprint)

    def _net(self, name: str, architecture: Architecture | None, tensors: Tensors) -> nn.Module:
        """Return the network with its tensors; memory is taken only after they are known to fit."""
        is_ours = architecture is not None and not is_factory(architecture.name)
        if is_ours and architecture is not None and not architecture.baked:
            shadow = shadow_from(architecture)
            if shadow is not None:
                _adopt_tensors(shadow, tensors)
                if _is_whole(shadow):
                    return shadow
        net = self._full_net(name, architecture)
        _adopt_tensors(net, tensors)
        return net

    def _full_net(self, name: str, architecture: Architecture | None) -> nn.Module:
        """Build the uncut network; only a builder that the caller gives is ever called for it."""
        if architecture is not None and not is_factory(architecture.name):
            net = build_from(architecture)
        elif self.build is not None:
            net = self.build(name)
        else:
            raise StorageError(_missing_builder(name, architecture))
        if architecture is None or not architecture.baked:
            return net
        from cnnsplitter.baking import bake

        return bake(net)


def _is_whole(net: nn.Module) -> bool:
    """Return whether nothing is left on the meta device, such as a buffer that is not saved."""
    plain = (value for module in net.modules() for value in vars(module).values())
    held = (*net.parameters(), *net.buffers(), *(v for v in plain if isinstance(v, Tensor)))
    return not any(tensor.is_meta for tensor in held)


def _missing_builder(name: str, architecture: Architecture | None) -> str:
    if architecture is None:
        how, options = "is not one of cnnsplitter's", "--model package.module:factory"
    else:
        how = "was built by a factory, and no code that a file names is run"
        options = as_options(architecture.name, architecture.arguments)
    return (
        f"the network of {name!r} {how}; if you trust it, name its builder: {options} "
        "(in Python, pass build=)"
    )


def _adopt_tensors(net: nn.Module, tensors: Tensors) -> None:
    """Replace every parameter and buffer of the full ``net`` by the possibly narrower one saved."""
    full = net.state_dict()
    if full.keys() != tensors.keys():
        odd = sorted(full.keys() ^ tensors.keys())
        raise StorageError(f"tensors missing or not of this network: {', '.join(odd[:3])}")
    for name, tensor in tensors.items():
        _require_fits(name, tensor, full[name])
        path, _, attribute = name.rpartition(".")
        owner = net.get_submodule(path)
        old, new = getattr(owner, attribute), tensor.clone()
        parameter = isinstance(old, nn.Parameter)
        setattr(owner, attribute, nn.Parameter(new, old.requires_grad) if parameter else new)


def _require_fits(name: str, tensor: Tensor, full: Tensor) -> None:
    """Refuse another type, more than the full network has, or nothing where it has something."""
    if tensor.dtype != full.dtype and not {tensor.dtype, full.dtype} <= _FLOATS:
        raise StorageError(f"tensor {name!r} is {tensor.dtype}, but must be {full.dtype}")
    sizes = zip(tensor.shape, full.shape, strict=False)
    if tensor.ndim != full.ndim or not all(min(most, 1) <= size <= most for size, most in sizes):
        raise StorageError(
            f"tensor {name!r} has shape {tuple(tensor.shape)}, which cannot be cut out of "
            f"{tuple(full.shape)}"
        )


def _require_sizes(net: nn.Module, sized: Sizes) -> None:
    """Refuse to set anything but numbers that the network has, and to enlarge those."""
    modules = dict(net.named_modules())
    for name, value in sized.items():
        path, _, attribute = name.rpartition(".")
        present = vars(modules[path]).get(attribute) if path in modules else None
        if not _is_cut_from(value, present):
            raise StorageError(f"the network cannot take the size {name!r} = {value}")


def _is_cut_from(value: int | tuple[int, ...], full: object) -> bool:
    if isinstance(value, int):
        # A flag is an int, too, but no size.
        if not isinstance(full, int) or isinstance(full, bool):
            return False
        return min(full, 0) <= value <= full
    if not isinstance(full, tuple | list) or len(value) != len(full):
        return False
    return all(_is_cut_from(size, most) for size, most in zip(value, full, strict=True))
