"""Cutting a narrow copy of a network by its channel map."""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from cnnsplitter.channels.flow import SizedAttribute

if TYPE_CHECKING:
    from cnnsplitter.channels.map import ChannelMap

Sizes = Mapping[str, int | tuple[int, ...]]
"""Dotted name of an attribute to the number, or numbers, of channels that it holds."""


def narrow_copy(model: nn.Module, channels: "ChannelMap", keep: Tensor) -> nn.Module:
    """Return a copy that holds only the kept units; without checks, for searches.

    Args:
        model: The network of ``channels``; not touched.
        channels: Its channel map.
        keep: bool[units].
    """
    kept = _with_frozen(keep)
    memo: dict[int, Any] = {
        id(old): _narrowed(old, cuts, kept) for old, cuts in _cuts(model, channels)
    }
    narrow = copy.deepcopy(model, memo)
    adopt_sizes(narrow, sized_values(channels, keep))
    return narrow


def cut_down(model: nn.Module, channels: "ChannelMap", keep: Tensor) -> None:
    """Cut ``model`` itself; for a copy that nobody else holds, as it takes half the memory.

    Args:
        model: The network of ``channels``, or a copy.
        channels: Its channel map.
        keep: bool[units].
    """
    kept = _with_frozen(keep)
    for tensor, cuts in _cuts(model, channels):
        tensor.data = _rows(tensor, cuts, kept)
    adopt_sizes(model, sized_values(channels, keep))


def sized_values(channels: "ChannelMap", keep: Tensor) -> dict[str, int | tuple[int, ...]]:
    """Return the attributes that hold numbers of channels, as cut to ``keep`` bool[units]."""
    kept = _with_frozen(keep)
    return {f"{s.module}.{s.attribute}": _count(s, kept) for s in channels.sized}


def adopt_sizes(model: nn.Module, sized: Sizes) -> None:
    """Set size attributes: of standard layers to the shapes of their tensors, others as given."""
    for name, value in sized.items():
        path, _, attribute = name.rpartition(".")
        module = model.get_submodule(path)
        as_list = isinstance(getattr(module, attribute), list)
        setattr(module, attribute, list(value) if as_list else value)  # type: ignore[arg-type]
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, nn.modules.conv._ConvNd):
            shape = weight.shape[:2] if not module.transposed else weight.shape[:2][::-1]
            module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            tensor = weight if weight is not None else module.running_mean
            module.num_features = len(tensor) if tensor is not None else module.num_features
        elif isinstance(module, nn.GroupNorm) and weight is not None:
            module.num_channels = len(weight)


def _count(sized: SizedAttribute, kept: Tensor) -> int | tuple[int, ...]:
    if isinstance(sized.parts, Tensor):
        return int(kept[sized.parts].sum())
    return tuple(p if isinstance(p, int) else int(kept[p].sum()) for p in sized.parts)


def _with_frozen(keep: Tensor) -> Tensor:
    """Append the entry that unit -1 (always kept) points to."""
    return torch.cat([keep, torch.ones(1, dtype=torch.bool)])


def _cuts(model: nn.Module, channels: "ChannelMap") -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    cuts: dict[str, dict[int, Tensor]] = {}
    for axis in channels.axes:
        cuts.setdefault(axis.tensor, {})[axis.axis] = axis.units
    for name, by_axis in cuts.items():
        yield tensors[name], by_axis


def _narrowed(old: Tensor, cuts: dict[int, Tensor], kept: Tensor) -> Tensor:
    new = _rows(old, cuts, kept)
    new = new.clone() if new.data_ptr() == old.data_ptr() else new
    return (
        nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
    )


def _rows(old: Tensor, cuts: dict[int, Tensor], kept: Tensor) -> Tensor:
    new = old.detach()
    for axis, units in cuts.items():
        rows = kept[units]
        # An axis that stays whole is not copied, so that at most one copy more exists at a time.
        if not rows.all():
            new = new.index_select(axis, rows.nonzero().flatten().to(new.device))
    return new
