"""Hypothesis strategies: random small CNNs and what is needed to run them."""

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

BLOCKS = (
    *("conv", "norm", "residual", "concat", "depthwise", "grouped", "pool", "padded", "gate"),
    *("layer_norm", "group_norm", "shuffle", "halves", "sized", "slopes", "mlp"),
)
HEADS = ("flatten", "average", "hidden")


@dataclass(frozen=True)
class Spec:
    """How to build a random CNN for images [3, 8, 8] and four classes."""

    blocks: tuple[tuple[str, int], ...]
    head: str
    seed: int


def specs() -> st.SearchStrategy[Spec]:
    block = st.tuples(st.sampled_from(BLOCKS), st.integers(2, 6))
    blocks = st.lists(block, min_size=1, max_size=5).map(tuple)
    return st.builds(Spec, blocks, st.sampled_from(HEADS), st.integers(0, 2**31))


class Residual(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


class Concat(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 1)
        self.second = nn.Conv2d(channels, width + 1, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels + 2 * width + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(torch.cat([self.first(x), x, self.second(x)], 1))  # type: ignore[no-any-return]


class Padded(nn.Module):
    """An option-A shortcut: a sum with fewer channels, padded with zeros."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, width, 1), 0.0)
        self.conv = nn.Conv2d(channels, channels + width + 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.conv(x) + self.pad(x))


class Gate(nn.Module):
    """Squeeze and excitation, with a sigmoid that is not zero at zero."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, width, 1)
        self.excite = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(torch.relu(self.squeeze(pooled))))


class ChannelLayerNorm(nn.LayerNorm):
    """A layer norm over the channels of an image."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.permute(0, 2, 3, 1))
        moved: Tensor = y.permute(0, 3, 1, 2)
        return moved


class Shuffle(nn.Module):
    """Mixes the order of the channels of two groups, as ShuffleNet does."""

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        return x.reshape(batch, channels, height, width)


class Halves(nn.Module):
    """Sends one half of the channels through a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat([first, torch.relu(self.conv(second))], dim=1)


class Sized(nn.Module):
    """Splits its channels by numbers that it holds as attributes."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * width + 1, 1)
        self.sizes = [width, width + 1]
        self.last = nn.Conv2d(width + 1, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).split(self.sizes, dim=1)
        joined: Tensor = torch.relu(self.last(second)) + first
        return joined


class Mlp(nn.Module):
    """A residual branch of linear layers over the channels, scaled, as in ConvNeXt."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Linear(channels, width)
        self.last = nn.Linear(width, channels)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1))
        y = self.last(torch.nn.functional.gelu(self.first(y)))
        return torch.add(x, self.scale * y.permute(0, 3, 1, 2))


def _block(kind: str, channels: int, width: int) -> tuple[nn.Module, int]:
    """Return the block and its number of output channels."""
    match kind:
        case "conv":
            return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()), width
        case "norm":
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(width), nn.Hardswish()), width
        case "residual":
            return Residual(channels, width), channels
        case "concat":
            return Concat(channels, width), channels + 2 * width + 1
        case "depthwise":
            conv = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=channels)
            return nn.Sequential(conv, nn.BatchNorm2d(2 * channels), nn.ReLU6()), 2 * channels
        case "grouped":
            wide = nn.Conv2d(channels, 2 * width, 1)
            grouped = nn.Conv2d(2 * width, 4 * width, 3, padding=1, groups=width)
            return nn.Sequential(wide, nn.ReLU(), grouped, nn.ReLU()), 4 * width
        case "pool":
            return nn.AvgPool2d(3, stride=1, padding=1), channels
        case "padded":
            return Padded(channels, width), channels + width + 1
        case "layer_norm":
            return ChannelLayerNorm(channels), channels
        case "group_norm":
            conv = nn.Conv2d(channels, 2 * width, 1)
            return nn.Sequential(conv, nn.GroupNorm(width, 2 * width), nn.GELU()), 2 * width
        case "shuffle":
            return nn.Sequential(nn.Conv2d(channels, 2 * width, 1), Shuffle()), 2 * width
        case "halves":
            return nn.Sequential(nn.Conv2d(channels, 2 * width, 1), Halves(width)), 2 * width
        case "sized":
            return Sized(channels, width), width
        case "slopes":
            return nn.Sequential(nn.Conv2d(channels, width, 1), nn.PReLU(width)), width
        case "mlp":
            return Mlp(channels, width), channels
        case _:
            return Gate(channels, width), channels


def build(spec: Spec) -> nn.Sequential:
    """Build the network in float64 with random weights and batch-norm statistics."""
    layers: list[nn.Module] = [nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU()]
    channels = 4
    for kind, width in spec.blocks:
        block, channels = _block(kind, channels, width)
        layers.append(block)
    match spec.head:
        case "flatten":
            layers += [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 4)]
        case "average":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]
        case _:
            head: list[Any] = [nn.Flatten(), nn.Dropout(), nn.Linear(16 * channels, 5), nn.ReLU()]
            layers += [*head, nn.Linear(5, 4)]
    net = nn.Sequential(*layers).double()
    randomise(net, torch.Generator().manual_seed(spec.seed))
    return net.eval()


def randomise(net: nn.Module, generator: torch.Generator) -> None:
    """Set all weights and statistics at random, at a scale that keeps outputs near one."""
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                fan_in = tensor[0].numel() if tensor.ndim > 1 else 4
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(noise / fan_in**0.5)


def images(spec: Spec, count: int = 3) -> Tensor:
    """Return random images float64[count, 3, 8, 8]."""
    generator = torch.Generator().manual_seed(spec.seed + 1)
    return torch.randn(count, 3, 8, 8, dtype=torch.float64, generator=generator)
