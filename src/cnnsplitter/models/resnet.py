"""CIFAR ResNets with option-A shortcuts (He et al., Deep Residual Learning, section 4.2).

Layer names follow akamaster/pytorch_resnet_cifar10, whose published weights therefore load.
"""

import torch
from torch import Tensor, nn

from cnnsplitter.models.layers import scaled

WIDTHS = (16, 32, 64)
"""Kernels of the convolutions of the three stages."""


class PadShortcut(nn.Module):
    """Option A: take every ``stride``-th pixel and pad the missing channels with zeros.

    The padding is a module of its own so that its amounts are an attribute, which cutting
    channels out of the network can rewrite.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        before = (outputs - inputs) // 2
        after = outputs - inputs - before
        self.stride = stride
        self.pad = nn.ConstantPad3d((0, 0, 0, 0, before, after), 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Map float[B, inputs, H, W] to float[B, outputs, H / stride, W / stride]."""
        return self.pad(x[:, :, :: self.stride, :: self.stride])  # type: ignore[no-any-return]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else PadShortcut(inputs, outputs, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map float[B, inputs, H, W] to float[B, outputs, H / stride, W / stride]."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """float[B, channels, H, W] -> logits float[B, classes].

    Args:
        depth: Layers with weights, 6 n + 2: 20, 32, 44 or 56 in the paper.
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution.
    """

    def __init__(self, depth: int, classes: int, channels: int = 3, width: float = 1.0) -> None:
        super().__init__()
        first, second, third = (scaled(kernels, width) for kernels in WIDTHS)
        blocks = (depth - 2) // 6
        self.conv1 = _conv3x3(channels, first)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = _stage(blocks, first, first, stride=1)
        self.layer2 = _stage(blocks, first, second, stride=2)
        self.layer3 = _stage(blocks, second, third, stride=2)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.average(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))
