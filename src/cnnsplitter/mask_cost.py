"""Multiply-adds of a masked network, as a function of its masks that has a gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.nets import eval_mode

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NN = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, *_TRANSPOSED)


@dataclass(frozen=True, eq=False)
class MaskCost:
    """What networks cost that keep a part of the units.

    A layer's multiply-adds are the numbers in its weight times the places where it is applied,
    so they follow from the sizes that the channel map cuts the weight's axes to.

    Attributes:
        inputs: float64[layers, units + 1], how many inputs of a layer's weight belong to a unit;
            those that no selection can drop are in the last column.
        outputs: float64[layers, units + 1], likewise of its outputs.
        factor: float64[layers], multiply-adds per input and output.
        constant: Multiply-adds that no selection changes.
    """

    inputs: Tensor
    outputs: Tensor
    factor: Tensor
    constant: float

    @classmethod
    def of(cls, strong: Classifier, channels: ChannelMap) -> "MaskCost":
        """Count the layers of ``strong`` on one image; the model is left as it was."""
        places = _places(strong)
        axes = {(axis.tensor, axis.axis): axis.units for axis in channels.axes}
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        factor: list[float] = []
        for name, count in places.items():
            layer = strong.net.get_submodule(name)
            weight: Any = layer.weight
            tables = (inputs, outputs) if isinstance(layer, _TRANSPOSED) else (outputs, inputs)
            for axis, table in enumerate(tables):
                always = torch.full((weight.shape[axis],), -1)
                units = axes.get((f"{name}.weight", axis), always)
                table.append(_per_unit(units, channels.unit_count))
            factor.append(float(count * weight[0, 0].numel()))
        cost = cls(
            torch.stack(inputs), torch.stack(outputs), torch.tensor(factor).double(), constant=0.0
        )
        whole = cost(torch.ones(channels.unit_count)).item()
        rest = measure_cost(strong, strong.input_shape).multiply_adds - whole
        return cls(cost.inputs, cost.outputs, cost.factor, rest)

    def __call__(self, masks: Tensor) -> Tensor:
        """Return the multiply-adds float64[...] for one image, given masks [..., units]."""
        masks = masks.double()
        kept = torch.cat([masks, masks.new_ones(*masks.shape[:-1], 1)], dim=-1)
        inputs, outputs, factor = (
            part.to(masks.device) for part in (self.inputs, self.outputs, self.factor)
        )
        return ((kept @ inputs.T) * (kept @ outputs.T)) @ factor + self.constant


def _per_unit(units: Tensor, unit_count: int) -> Tensor:
    return torch.bincount(units % (unit_count + 1), minlength=unit_count + 1).double()


def _places(strong: Classifier) -> dict[str, int]:
    """Return how often each layer's weight is applied to one image."""
    found: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        weight: Any = module.weight
        # a transposed convolution applies its weight at the places of its input
        where = args[0] if isinstance(module, _TRANSPOSED) else output
        found[name] = found.get(name, 0) + where[0].numel() // weight.shape[0]

    with eval_mode(strong.net), torch.no_grad(), _noting(strong.net, note):
        strong.net(strong.example(1))
    return found


@contextmanager
def _noting(net: nn.Module, note: Any) -> Iterator[None]:
    from functools import partial

    handles = [
        module.register_forward_hook(partial(note, name))
        for name, module in net.named_modules()
        if isinstance(module, _NN)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
