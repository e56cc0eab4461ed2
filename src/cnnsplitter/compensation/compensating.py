"""What is kept of each layer's input takes over, by least squares, what was cut.

The kept channels of a layer tell much of what the cut ones told. So each layer of a narrow network
gets the weights that reproduce, as well as a linear map of the kept channels can, what the strong
model's layer writes. This is channel pruning by reconstruction (He, Zhang, Sun, Channel Pruning for
Accelerating Very Deep Neural Networks, section 3.1), in closed form and without labels; one
covariance per layer, measured on the strong model, serves every selection.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier, require_finite
from cnnsplitter.compensation.moments import Moments, is_pointwise, measure_moments
from cnnsplitter.data import ImageSet
from cnnsplitter.errors import DataError, SelectionError, SettingsError, require_seed
from cnnsplitter.selection import Selection

IMAGES = 500
"""Images that the covariances are measured on by default."""

SAMPLES = 30_000
"""Places of each layer that are looked at by default, over all images."""

RIDGE = 1e-3
"""Added to the covariance, as a share of the mean variance: small changes of weights win."""


class Narrow(Protocol):
    """A narrow network cut out of a strong model: a class module, or that of a sub-task."""

    net: nn.Module
    selection: Selection | None


N = TypeVar("N", bound=Narrow)


def compensate(
    modules: Mapping[str, N],
    strong: Classifier,
    channels: ChannelMap,
    data: ImageSet,
    *,
    seed: int,
    images: int = IMAGES,
    samples: int = SAMPLES,
) -> dict[str, N]:
    """Return copies of narrow networks in which what is kept takes over what was cut.

    They cost as much as before, and hold as many numbers. Layers that are no plain convolution or
    linear layer (those with groups, transposed ones, those that run twice) stay as they are.

    Args:
        modules: Narrow networks by any names, as cut: with the strong model's own weights; left
            untouched.
        strong: The strong model that they were cut out of, restricted to the same classes if they
            are; left untouched.
        channels: Channel map of ``strong.net``.
        data: Training images of all classes that the networks will see in use; no labels are used.
        seed: Of the choice of images and places.
        images: At most so many of them are used.
        samples: About so many places of each layer are looked at.

    Raises:
        DataError: No image.
        ModelError: Weights that are not finite, or not even one image fits into memory.
        SelectionError: A network that was cut out of another strong model.
        SettingsError: A network whose selection is not known, or settings out of range.
    """
    require_seed(seed)
    if min(images, samples) < 1:
        raise SettingsError("compensation needs at least one image and one place; ask for more")
    if not len(data):
        raise DataError(f"{data.images.name}: compensation needs images; add some")
    for net in (strong.net, *(module.net for module in modules.values())):
        require_finite(net)
    keeps = {name: _keep(name, module, channels) for name, module in modules.items()}
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:images]
    moments = measure_moments(strong, channels, data.take(order), seed=seed, samples=samples)
    layers = [_Layer.of(strong.net, channels, name, known) for name, known in moments.items()]
    narrow = {name: copy.deepcopy(module) for name, module in modules.items()}
    for name, module in narrow.items():
        for layer in layers:
            layer.compensate(module.net, keeps[name])
    return narrow


def _keep(name: str, module: Narrow, channels: ChannelMap) -> Tensor:
    """Return bool[units + 1]; the last entry is that of what is always kept."""
    if module.selection is None:
        raise SettingsError(f"the selection of {name!r} is not known; give networks that were cut")
    if module.selection.fingerprint != channels.fingerprint:
        raise SelectionError(f"{name!r} was cut out of another network; give that one")
    return torch.cat([module.selection.keep, torch.ones(1, dtype=torch.bool)])


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of the strong model that can be compensated.

    Attributes:
        name: Its path.
        weight: float64[outputs, inputs, taps].
        inputs: int64[inputs], the unit of each.
        outputs: int64[outputs], the unit of each.
        moments: Of what it reads.
        pointwise: Whether the features of ``moments`` are the inputs at one place.
        has_offset: Whether a bias, or a norm's mean, can make up for a mean.
    """

    name: str
    weight: Tensor
    inputs: Tensor
    outputs: Tensor
    moments: Moments
    pointwise: bool
    has_offset: bool

    @classmethod
    def of(cls, net: nn.Module, channels: ChannelMap, name: str, moments: Moments) -> "_Layer":
        layer: Any = net.get_submodule(name)
        weight: Tensor = layer.weight
        axes = {a.axis: a.units for a in channels.axes if a.tensor == f"{name}.weight"}
        always = torch.full((max(weight.shape[:2]),), -1)
        inputs, outputs = (axes.get(i, always[: weight.shape[i]]) for i in (1, 0))
        taps = weight.detach().double().cpu().reshape(*weight.shape[:2], -1)
        has_offset = layer.bias is not None or bool(moments.norm)
        return cls(name, taps, inputs, outputs, moments, is_pointwise(layer), has_offset)

    @torch.no_grad()
    def compensate(self, net: nn.Module, keep: Tensor) -> None:
        """Change the weights and the offset of this layer in the narrow network ``net``."""
        inputs, outputs = keep[self.inputs], keep[self.outputs]
        if inputs.all():
            return
        weight = self.weight[outputs]
        change = self._change(weight, inputs)
        layer: Any = net.get_submodule(self.name)
        layer.weight += change.reshape(layer.weight.shape).to(layer.weight)
        if not self.has_offset:
            return
        offset = self._lost_mean(weight, change, inputs)
        if layer.bias is not None:
            layer.bias += offset.to(layer.bias)
        else:
            norm: Any = net.get_submodule(self.moments.norm)
            norm.running_mean -= offset.to(norm.running_mean)

    def _change(self, weight: Tensor, inputs: Tensor) -> Tensor:
        """Return what to add to the weights of the kept inputs, float64[outputs, kept, taps]."""
        kept = self._features(inputs)
        covariance = self.moments.covariance
        if not self.has_offset:
            covariance = covariance + torch.outer(self.moments.mean, self.moments.mean)
        known = covariance[kept][:, kept]
        ridge = RIDGE * known.diagonal().mean().clamp(min=1e-12)
        known = known + ridge * torch.eye(len(known), dtype=known.dtype)
        map_: Tensor = torch.linalg.solve(known, covariance[kept][:, ~kept])
        lost = weight[:, ~inputs]
        if self.pointwise:
            return torch.einsum("oct,kc->okt", lost, map_)
        change: Tensor = lost.flatten(1) @ map_.T
        return change.view(len(change), -1, weight.shape[2])

    def _lost_mean(self, weight: Tensor, change: Tensor, inputs: Tensor) -> Tensor:
        """Return the part of the mean that is missing after the change, float64[outputs]."""
        kept, mean = self._features(inputs), self.moments.mean
        lost = weight[:, ~inputs]
        if self.pointwise:
            lost, change = lost.sum(2), change.sum(2)
        return lost.flatten(1) @ mean[~kept] - change.flatten(1) @ mean[kept]

    def _features(self, inputs: Tensor) -> Tensor:
        taps = 1 if self.pointwise else self.weight.shape[2]
        return inputs.repeat_interleave(taps)
