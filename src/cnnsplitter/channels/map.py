"""The channel map: which parameters a kernel touches, for any CNN that can be traced."""

import hashlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cnnsplitter.channels.flow import ChannelNorm, Flow, SizedAttribute
from cnnsplitter.channels.graph import record_graph
from cnnsplitter.channels.refusals import no_convolution
from cnnsplitter.channels.trace import number_units, walk
from cnnsplitter.channels.verify import find_fault
from cnnsplitter.errors import SelectionError, UnsupportedModelError
from cnnsplitter.selection import Selection

_MOST_REPEATS = 12


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a parameter or buffer: the unit of each index, -1 where it is always kept."""

    tensor: str
    axis: int
    units: Tensor


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A layer with kernels: module path and int64[kernels], the unit of each (-1: always kept)."""

    name: str
    units: Tensor


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that mixes channels: module path and int64[inputs], the unit of each input."""

    name: str
    units: Tensor


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """A "layer" of the search: the units whose kernels lie in the same layers.

    Attributes:
        name: The layers' names, shortened.
        layers: Names of the layers that hold these units' kernels.
        units: int64[k].
    """

    name: str
    layers: tuple[str, ...]
    units: Tensor


@dataclass(frozen=True)
class Frozen:
    """Kernels that no selection can drop, with the reason and the module that causes it."""

    layer: str
    kernels: int
    reason: str
    module: str


@dataclass(frozen=True, eq=False)
class ChannelMap:
    """The table behind selection, masks, extraction and counts.

    Attributes:
        unit_count: Number of units.
        axes: Every axis that a cut narrows.
        layers: The layers with kernels, in call order.
        readers: The layers that mix channels, in call order.
        groups: The search's layers; they partition the units.
        required: Unit sets of which every selection keeps at least one.
        norms: The norms over channels, whose statistics run over kept channels only.
        sized: Module attributes that hold numbers of channels.
        kernels_per_unit: int64[units].
        frozen: What cannot be selected and why.
        fingerprint: Identifies the network's structure and numbering.
        input_shape: (C, H, W) of the example input.
    """

    unit_count: int
    axes: tuple[Axis, ...]
    layers: tuple[ConvLayer, ...]
    readers: tuple[Reader, ...]
    groups: tuple[UnitGroup, ...]
    required: tuple[Tensor, ...]
    norms: tuple[ChannelNorm, ...]
    sized: tuple[SizedAttribute, ...]
    kernels_per_unit: Tensor
    frozen: tuple[Frozen, ...]
    fingerprint: str
    input_shape: tuple[int, ...]

    @classmethod
    def trace(
        cls,
        model: nn.Module,
        example: Tensor,
        *,
        units: Literal["conv", "all"] = "conv",
        unknown: Literal["error", "freeze"] = "error",
    ) -> "ChannelMap":
        """Trace ``model`` on ``example`` float[B, C, H, W]; neither is touched.

        The map is tried out before it is returned: masked and cut network must agree. Where the
        cut one fails, because a number of channels is written into a forward, or is the first to
        differ, the channels of that module are frozen and the trace is repeated.

        Args:
            model: Any CNN.
            example: An input of the size in use; only its shape and dtype matter.
            units: ``"conv"`` selects kernels only (the paper's meaning), ``"all"`` also the rows
                of hidden linear layers.
            unknown: What an operator that is not on the white list does: raise, or freeze the
                channels that reach it.

        Raises:
            UnsupportedModelError: See ``unknown``; also for control flow that depends on data,
                and if masked and cut network cannot be brought to agree.
            ModelError: If the network does not take the example, or has no convolution.
        """
        frozen_modules: dict[str, str] = {}
        graph = record_graph(model, example)
        trial = example.new_empty(graph.small_image())
        for _ in range(_MOST_REPEATS):
            flow = walk(graph, freeze_unknown=unknown == "freeze", frozen_modules=frozen_modules)
            channels = _build(flow, tuple(example.shape[1:]), linear_units=units == "all")
            if not channels.layers:
                raise no_convolution(model, linear_units=units == "all")
            fault = find_fault(model, channels, trial)
            if fault is None:
                return channels
            module = _not_yet(fault.module, frozen_modules)
            if module is None:
                break
            frozen_modules[module] = fault.reason
        raise UnsupportedModelError(
            f"{type(model).__name__} does not give the same outputs masked and cut, "
            f"even with the channels of {', '.join(map(repr, frozen_modules))} frozen"
        )

    @property
    def kernel_count(self) -> int:
        """Number of kernels of the network, frozen ones included."""
        return sum(len(layer.units) for layer in self.layers)

    @property
    def selectable_kernels(self) -> int:
        """Number of kernels that some selection drops.

        Frozen ones are not counted, nor is a unit that holds all kernels of a layer, because every
        selection needs it.
        """
        alone = sorted({int(units[0]) for units in self.required if len(units) == 1})
        return int(self.kernels_per_unit.sum() - self.kernels_per_unit[alone].sum())

    def kernels(self, selection: Selection) -> int:
        """Return how many kernels ``selection`` keeps, frozen ones included."""
        frozen = self.kernel_count - int(self.kernels_per_unit.sum())
        return frozen + int(self.kernels_per_unit[selection.keep].sum())

    def full_selection(self) -> Selection:
        """Return the selection that keeps everything."""
        return Selection(torch.ones(self.unit_count, dtype=torch.bool), self.fingerprint)

    def random_selection(self, share: float, *, generator: torch.Generator) -> Selection:
        """Return a selection that keeps about ``share`` of each group's units, at least one."""
        priority = torch.rand(self.unit_count, generator=generator)
        keep = torch.zeros(self.unit_count, dtype=torch.bool)
        for group in self.groups:
            count = max(1, round(share * len(group.units)))
            keep[group.units[priority[group.units].topk(count).indices]] = True
        return Selection(self.fill(keep, priority), self.fingerprint)

    def fill(self, keep: Tensor, priority: Tensor) -> Tensor:
        """Turn on the best unit of every required set that ``keep`` empties.

        Args:
            keep: bool[..., units].
            priority: float[units] or float[..., units].
        """
        keep, priority = keep.clone(), priority.expand(keep.shape)
        for required in self.required:
            best = required[priority[..., required].argmax(dim=-1, keepdim=True)]
            empty = ~keep[..., required].any(dim=-1, keepdim=True)
            keep.scatter_(-1, best, empty | keep.gather(-1, best))
        return keep

    def check(self, selection: Selection) -> None:
        """Raise ``SelectionError`` unless ``selection`` fits this network and empties no layer."""
        if selection.fingerprint != self.fingerprint:
            raise SelectionError("the selection was made for another network")
        for required in self.required:
            if not selection.keep[required].any():
                raise SelectionError(f"the selection would empty {self._holder(required)}")

    def _holder(self, required: Tensor) -> str:
        places: tuple[ConvLayer | Reader, ...] = (*self.layers, *self.readers)
        for place in places:
            if set(place.units.tolist()) == set(required.tolist()):
                return f"layer {place.name!r}"
        return "a layer"


def _not_yet(module: str, frozen: Container[str]) -> str | None:
    """Return the module, or the innermost around it, that is not frozen; None if all are."""
    while module in frozen:
        if not module:
            return None
        module = module.rpartition(".")[0]
    return module


def _build(flow: Flow, input_shape: tuple[int, ...], *, linear_units: bool) -> ChannelMap:
    unit_of = number_units(flow, linear_units=linear_units)
    axes = tuple(Axis(name, axis, unit_of[ids]) for (name, axis), ids in flow.axes.items())
    rows = {name: unit_of[ids] for name, ids in flow.rows.items()}
    layers = tuple(ConvLayer(name, unit_of[ids]) for name, ids in flow.writers.items())
    if linear_units:
        layers += tuple(ConvLayer(name, units) for name, units in rows.items())
    readers = tuple(Reader(name, unit_of[ids]) for name, ids in flow.readers.items())
    sized = tuple(_with_units(s, unit_of) for s in flow.sized.values())
    unit_count = int(unit_of.max()) + 1
    return ChannelMap(
        unit_count=unit_count,
        axes=tuple(a for a in axes if bool((a.units >= 0).any())),
        layers=layers,
        readers=tuple(r for r in readers if bool((r.units >= 0).any())),
        groups=_groups(layers, unit_count),
        required=_required(
            [
                *(layer.units for layer in layers),
                *(reader.units for reader in readers),
                *rows.values(),
                *(unit_of[ids] for ids in flow.required),
            ]
        ),
        norms=tuple(
            ChannelNorm(n.module, unit_of[n.channels], n.axis) for n in flow.norms.values()
        ),
        sized=sized,
        kernels_per_unit=_count(layers, unit_count),
        frozen=tuple(_frozen(flow, unit_of)),
        fingerprint=_fingerprint(axes),
        input_shape=input_shape,
    )


def _with_units(sized: SizedAttribute, unit_of: Tensor) -> SizedAttribute:
    parts = sized.parts
    if isinstance(parts, Tensor):
        return SizedAttribute(sized.module, sized.attribute, unit_of[parts])
    units = tuple(p if isinstance(p, int) else unit_of[p] for p in parts)
    return SizedAttribute(sized.module, sized.attribute, units)


def _count(layers: Iterable[ConvLayer], unit_count: int) -> Tensor:
    units = torch.cat([torch.empty(0, dtype=torch.int64), *(layer.units for layer in layers)])
    return torch.bincount(units[units >= 0], minlength=unit_count)


def _required(places: Iterable[Tensor]) -> tuple[Tensor, ...]:
    sets = {tuple(sorted(set(units.tolist()))) for units in places if bool((units >= 0).all())}
    return tuple(torch.tensor(units) for units in sorted(sets))


def _groups(layers: tuple[ConvLayer, ...], unit_count: int) -> tuple[UnitGroup, ...]:
    holders: list[list[str]] = [[] for _ in range(unit_count)]
    for layer in layers:
        for unit in sorted(set(layer.units.tolist()) - {-1}):
            holders[unit].append(layer.name)
    members: dict[tuple[str, ...], list[int]] = {}
    for unit, names in enumerate(holders):
        members.setdefault(tuple(names), []).append(unit)
    return tuple(
        UnitGroup(name, names, torch.tensor(units))
        for (names, units), name in zip(members.items(), _short_names(members), strict=True)
    )


def _short_names(members: Mapping[tuple[str, ...], list[int]]) -> list[str]:
    short: list[str] = []
    for names in members:
        name = "+".join(names) if len(names) <= 2 else f"{names[0]}+{len(names) - 1}"
        twins = sum(other.split("#")[0] == name for other in short)
        short.append(f"{name}#{twins + 1}" if twins else name)
    return short


def _frozen(flow: Flow, unit_of: Tensor) -> Iterable[Frozen]:
    for name, ids in flow.writers.items():
        kernels = int((unit_of[ids] < 0).sum())
        if kernels:
            cause = next((f for f in flow.freezes if bool(torch.isin(ids, f.ids).any())), None)
            reason = cause.reason if cause else "tied to frozen channels"
            yield Frozen(name, kernels, reason, cause.module if cause else name)


def _fingerprint(axes: Iterable[Axis]) -> str:
    digest = hashlib.sha256()
    for axis in axes:
        digest.update(f"{axis.tensor}:{axis.axis}:{axis.units.tolist()};".encode())
    return digest.hexdigest()[:16]
