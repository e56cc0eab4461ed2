"""InceCNN: three inception steps with batch norm (GradSplitter; method.md, The networks)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cnnsplitter.models.layers import pools_that_fit, scaled

STEM = (64, 128, 256)
BRANCHES = ((256, 256, 64), (512, 512, 64), (512, 512, 64))
"""Kernels of the 1x1, 3x3 and 5x5 branch of each inception step."""
BRANCH_SIZES = (1, 3, 5)
POOLS = 3


def conv_norm(inputs: int, kernels: int, size: int) -> nn.Sequential:
    """Return a convolution that keeps the image size, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, kernels, size, padding=size // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(kernels), nn.ReLU())


class Inception(nn.Module):
    """Parallel 1x1, 3x3 and 5x5 branches, concatenated along the channels."""

    def __init__(self, inputs: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            conv_norm(inputs, k, size) for k, size in zip(kernels, BRANCH_SIZES, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map float[B, inputs, H, W] to float[B, kernels of all branches, H, W]."""
        return torch.cat([branch(x) for branch in self.branches], dim=1)


class InceCNN(nn.Module):
    """float[B, channels, image_size, image_size] -> logits float[B, classes].

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution.
        image_size: Height and width in pixels; below 8 fewer than three pools fit.
        dropout: Before the linear layer.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        widths = [channels, *(scaled(kernels, width) for kernels in STEM)]
        self.stem = nn.Sequential(
            *(conv_norm(inputs, kernels, 3) for inputs, kernels in pairwise(widths))
        )
        self.pool_0, self.pool_1, self.pool_2 = pools_that_fit(POOLS, image_size)
        branches = [tuple(scaled(kernels, width) for kernels in step) for step in BRANCHES]
        self.step_1 = Inception(widths[-1], branches[0])
        self.step_2 = Inception(sum(branches[0]), branches[1])
        self.step_3 = Inception(sum(branches[1]), branches[2])
        self.average = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(sum(branches[2]), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.pool_0(self.stem(x))
        x = self.pool_1(self.step_1(x))
        x = self.pool_2(self.step_2(x))
        x = self.average(self.step_3(x))
        return self.linear(self.dropout(torch.flatten(x, 1)))  # type: ignore[no-any-return]
