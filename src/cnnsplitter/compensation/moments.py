"""Means and covariances of what the layers of a strong model read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import device_of, in_parts, to_device
from cnnsplitter.nets import eval_mode

MOST_FEATURES = 1200
"""Layers whose kernels see more values than that are described pixel by pixel: the covariance of
all that a kernel of 512 inputs sees would have 21 million entries."""

_ELEMENTS = 2**24
"""Patches are taken apart for so many numbers at a time."""

_BatchNorm = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Moments:
    """What one layer reads, over places and images.

    Attributes:
        mean: float64[features]; a feature is an input channel at a tap of the kernel, or an input
            channel alone.
        covariance: float64[features, features].
        norm: Path of the batch norm that reads what the layer writes, "" if there is none.
    """

    mean: Tensor
    covariance: Tensor
    norm: str


def measure_moments(
    strong: Classifier,
    channels: ChannelMap,
    data: ImageSet,
    *,
    seed: int,
    samples: int,
    batch_size: int = 100,
) -> dict[str, Moments]:
    """Return the moments of every layer that can be compensated, by its path.

    Those are the readers of the channel map that are linear layers, or convolutions over two
    axes, with zero padding and without groups, and that run once.

    Args:
        strong: The strong model; left as it was.
        channels: Channel map of ``strong.net``.
        data: Images; all are used.
        seed: Of the choice of places.
        samples: About so many places of each layer are looked at.
        batch_size: Images at a time; fewer, of which others places are drawn, if they do not fit
            into memory.

    Raises:
        ModelError: Not even one image fits into memory.
    """
    generator = Generator().manual_seed(seed)
    share = samples / max(1, len(data))
    layers = {reader.name: strong.net.get_submodule(reader.name) for reader in channels.readers}
    sums = {
        name: _Sums(layer, share, generator) for name, layer in layers.items() if is_plain(layer)
    }
    device, runs, most = device_of(strong), 0, batch_size

    def look(images: Tensor) -> Tensor:
        with _all_or_nothing(sums.values(), generator):
            seen: Tensor = strong(to_device(images, device))
        return seen

    with eval_mode(strong), torch.no_grad(), _adding(sums):
        for images, _ in data.batches(batch_size):
            parts, most = in_parts(look, images, most)
            runs += len(parts)
    norms = _norms_after(strong, sums)
    return {
        name: layer_sums.moments(norms.get(name, ""))
        for name, layer_sums in sums.items()
        if layer_sums.calls == runs
    }


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer multiplies all that it reads by one matrix at every place."""
    if isinstance(layer, nn.Conv2d):
        numeric = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return numeric and layer.groups == 1
    return isinstance(layer, nn.Linear)


def is_pointwise(layer: nn.Module) -> bool:
    """Return whether the features of a layer are its input channels alone."""
    if not isinstance(layer, nn.Conv2d):
        return True
    return layer.weight[0].numel() > MOST_FEATURES


@dataclass
class _Sums:
    """Running sums of one layer."""

    layer: nn.Module
    share: float
    generator: Generator
    calls: int = 0
    count: int = 0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0

    def note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Look at some places of what the layer is about to read."""
        x = args[0] if args else kwargs["input"]
        self.calls += 1
        features = self._features_per_image(x)
        for part in x.split(max(1, _ELEMENTS // features)):
            rows = self._rows(part)
            most = max(1, round(self.share * len(part)))
            if most < len(rows):
                order = torch.randperm(len(rows), generator=self.generator)[:most]
                rows = rows[order.to(rows.device)]
            self.count += len(rows)
            self.first = self.first + rows.sum(0).cpu().double()
            self.second = self.second + (rows.T @ rows).cpu().double()

    def moments(self, norm: str) -> Moments:
        mean = torch.as_tensor(self.first) / self.count
        covariance = torch.as_tensor(self.second) / self.count - torch.outer(mean, mean)
        return Moments(mean, covariance, norm)

    def _features_per_image(self, x: Tensor) -> int:
        each = x[0].numel()
        if isinstance(self.layer, nn.Conv2d) and not is_pointwise(self.layer):
            each *= self.layer.weight[0, 0].numel()
        return each

    def _rows(self, x: Tensor) -> Tensor:
        """Return the features [places, features] of all places."""
        layer = self.layer
        if not isinstance(layer, nn.Conv2d):
            return x.flatten(0, -2)
        if is_pointwise(layer):
            return x.movedim(1, -1).flatten(0, -2)
        shape = (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return functional.unfold(x, *shape).transpose(1, 2).flatten(0, 1)  # type: ignore[arg-type]


@contextmanager
def _adding(sums: Mapping[str, _Sums]) -> Iterator[None]:
    """Add up what the layers read."""
    handles = [
        layer_sums.layer.register_forward_pre_hook(layer_sums.note, with_kwargs=True)
        for layer_sums in sums.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _all_or_nothing(sums: Iterable[_Sums], generator: Generator) -> Iterator[None]:
    """Forget what was added in the block, and what was drawn for it, if it breaks off."""
    before = [(layer_sums, vars(layer_sums).copy()) for layer_sums in sums]
    state = generator.get_state()
    try:
        yield
    except BaseException:
        for layer_sums, values in before:
            vars(layer_sums).update(values)
        generator.set_state(state)
        raise


def _norms_after(strong: Classifier, layers: Iterable[str]) -> dict[str, str]:
    """Return the paths of the batch norms that read what the layers write, by the layers' paths."""
    written: dict[str, Tensor] = {}
    found: dict[str, str] = {}

    def writes(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, y: written.update({name: y})

    def reads(path: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, args: Any) -> None:
            found.update({name: path for name, y in written.items() if args and args[0] is y})

        return note

    modules = dict(strong.net.named_modules())
    handles = [modules[name].register_forward_hook(writes(name)) for name in layers]
    handles += [
        norm.register_forward_pre_hook(reads(path))
        for path, norm in modules.items()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None
    ]
    try:
        with eval_mode(strong), torch.no_grad():
            strong.net(strong.example().to(device_of(strong)))
    finally:
        for handle in handles:
            handle.remove()
    return found
