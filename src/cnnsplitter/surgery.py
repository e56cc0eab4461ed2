"""Two ways to run a selection: mask what readers see, or cut a narrow copy. Both are equal."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.inference import eval_mode
from cnnsplitter.selection import Selection


def extract(model: nn.Module, channels: ChannelMap, selection: Selection) -> nn.Module:
    """Cut a narrow copy of ``model`` that holds only the selected units; the model is not touched.

    Raises:
        SelectionError: If the selection is another network's or would empty a layer.
        UnsupportedModelError: If the narrow copy does not run (a size written into a forward).
    """
    channels.check(selection)
    narrow = narrow_copy(model, channels, selection.keep)
    parameter = next(narrow.parameters())
    example = torch.zeros(2, *channels.input_shape, dtype=parameter.dtype, device=parameter.device)
    try:
        with eval_mode(narrow), torch.no_grad():
            narrow(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UnsupportedModelError(
            f"the cut {type(model).__name__} does not run, so its forward holds a number of "
            f"channels: {str(error).strip().splitlines()[0]}"
        ) from error
    return narrow


def narrow_copy(model: nn.Module, channels: ChannelMap, keep: Tensor) -> nn.Module:
    """Cut without checks, for searches that cut thousands of times; ``keep`` is bool[units]."""
    kept = _with_frozen(keep)
    memo = {id(old): _narrowed(old, cuts, kept) for old, cuts in _cuts(model, channels)}
    narrow = copy.deepcopy(model, memo)
    adopt_sizes(narrow, sized_values(channels, keep))
    return narrow


def sized_values(channels: ChannelMap, keep: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the attributes (by dotted name) that hold numbers of channels, as cut to ``keep``."""
    kept = _with_frozen(keep)
    return {
        f"{s.module}.{s.attribute}": tuple(
            p if isinstance(p, int) else int(kept[p].sum()) for p in s.parts
        )
        for s in channels.sized
    }


def adopt_sizes(model: nn.Module, sized: Mapping[str, tuple[int, ...]]) -> None:
    """Set size attributes: of standard layers to the shapes of their tensors, others as given."""
    for name, value in sized.items():
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, value)
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
            if module.groups > 1:
                module.groups = weight.shape[0] * module.groups // module.out_channels
            module.out_channels = weight.shape[0]
            module.in_channels = weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            tensor = weight if weight is not None else module.running_mean
            module.num_features = len(tensor) if tensor is not None else module.num_features


def masked_forward(
    model: nn.Module, channels: ChannelMap, selection: Selection, x: Tensor
) -> Tensor:
    """Run ``model`` in evaluation mode as if only the selected units were there.

    Args:
        model: The network of ``channels``; left as it was.
        channels: Its channel map.
        selection: The units that count.
        x: Preprocessed images float[B, C, H, W].

    Returns:
        The same as ``extract(model, channels, selection)(x)``, up to rounding.
    """
    channels.check(selection)
    with eval_mode(model), masked(model, channels, selection.keep.to(x)):
        return model(x)  # type: ignore[no-any-return]


@contextmanager
def masked(model: nn.Module, channels: ChannelMap, mask: Tensor) -> Iterator[None]:
    """Multiply what every reading layer sees by ``mask``: float[units], or float[B, units].

    A unit is off where its readers read it: zeroing it before a norm would not remove it.
    """
    ones = torch.ones(*mask.shape[:-1], 1, dtype=mask.dtype, device=mask.device)
    with_frozen = torch.cat([mask, ones], dim=-1)
    handles = []
    try:
        for reader in channels.readers:
            factor = with_frozen[..., reader.units.to(mask.device)]
            hook = _MaskInput(factor)
            handles.append(model.get_submodule(reader.name).register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _MaskInput:
    def __init__(self, factor: Tensor) -> None:
        self.factor = factor

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        x, factor = args[0], self.factor
        if isinstance(module, nn.Linear):
            inner = [1] * (x.ndim - 2)
            shape = [*factor.shape[:-1], *inner, factor.shape[-1]]
        else:
            shape = [*factor.shape, *[1] * (x.ndim - 2)]
        return (x * factor.view(shape), *args[1:])


def _with_frozen(keep: Tensor) -> Tensor:
    """Append the entry that unit -1 (always kept) points to."""
    return torch.cat([keep, torch.ones(1, dtype=torch.bool)])


def _cuts(model: nn.Module, channels: ChannelMap) -> Iterator[tuple[Tensor, dict[int, Tensor]]]:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    cuts: dict[str, dict[int, Tensor]] = {}
    for axis in channels.axes:
        cuts.setdefault(axis.tensor, {})[axis.axis] = axis.units
    for name, by_axis in cuts.items():
        yield tensors[name], by_axis


def _narrowed(old: Tensor, cuts: dict[int, Tensor], kept: Tensor) -> Tensor:
    new = old.detach()
    for axis, units in cuts.items():
        rows = kept[units].nonzero().flatten().to(new.device)
        new = new.index_select(axis, rows)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new.clone(), requires_grad=old.requires_grad)
    return new.clone()
