"""The too-simple weak networks and the re-test's LeNet-5 (method.md, The networks)."""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from cnnsplitter.models.layers import conv3x3, pooled_size, pools_that_fit, scaled


class WeakSimCNN(nn.Sequential):
    """Convolutions of one width, each with ReLU and a pool, then a linear layer.

    float[B, channels, image_size, image_size] -> logits float[B, classes].

    Args:
        kernels: Kernels of each convolution before scaling.
        convolutions: How many there are.
        size: Height and width of the kernels; odd.
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution.
        image_size: Height and width in pixels.
    """

    def __init__(
        self,
        kernels: int,
        convolutions: int,
        size: int,
        classes: int,
        channels: int = 3,
        width: float = 1.0,
        image_size: int = 32,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pools = pools_that_fit(convolutions, image_size)
        inputs, kernels = channels, scaled(kernels, width)
        for number, pool in enumerate(pools):
            layers[f"conv_{number}"] = nn.Conv2d(inputs, kernels, size, padding=size // 2)
            layers[f"relu_{number}"] = nn.ReLU()
            layers[f"pool_{number}"] = pool
            inputs = kernels
        layers["flatten"] = nn.Flatten()
        features = kernels * pooled_size(pools, image_size) ** 2
        layers[f"fc_{convolutions}"] = nn.Linear(features, classes)
        super().__init__(layers)


class WeakResCNN(nn.Module):
    """A convolution and a pool, two convolutions with a skip, optionally one more and a pool.

    float[B, channels, image_size, image_size] -> logits float[B, classes].

    Args:
        kernels: Kernels of each convolution before scaling.
        convolutions: 4, or 3 without the last one (the five-class kind).
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution.
        image_size: Height and width in pixels.
    """

    def __init__(
        self,
        kernels: int,
        convolutions: int,
        classes: int,
        channels: int = 3,
        width: float = 1.0,
        image_size: int = 32,
    ) -> None:
        super().__init__()
        kernels = scaled(kernels, width)
        pools = pools_that_fit(2, image_size)
        self.conv_0 = conv3x3(channels, kernels)
        self.pool_0 = pools[0]
        self.conv_1 = conv3x3(kernels, kernels)
        self.conv_2 = conv3x3(kernels, kernels)
        last = [conv3x3(kernels, kernels), nn.ReLU()] if convolutions == 4 else []
        self.last = nn.Sequential(*last, pools[1])
        self.relu = nn.ReLU()
        self.linear = nn.Linear(kernels * pooled_size(pools, image_size) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        x = self.pool_0(self.relu(self.conv_0(x)))
        x = x + self.relu(self.conv_2(self.relu(self.conv_1(x))))
        return self.linear(torch.flatten(self.last(x), 1))  # type: ignore[no-any-return]


class LeNet5(nn.Sequential):
    """LeNet-5 of the re-test: two 5x5 convolutions with pools and three linear layers.

    float[B, channels, image_size, image_size] -> logits float[B, classes]. Images below 16x16
    get padding 2, as they would vanish without.

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution and on the hidden linear layers.
        image_size: Height and width in pixels.
    """

    def __init__(
        self, classes: int, channels: int = 3, width: float = 1.0, image_size: int = 32
    ) -> None:
        first, second, third, fourth = (scaled(k, width) for k in (6, 16, 120, 84))
        padding = 0 if image_size >= 16 else 2
        left = image_size
        for _ in range(2):
            left = (left - 4 + 2 * padding) // 2
        super().__init__(
            OrderedDict(
                conv_0=nn.Conv2d(channels, first, 5, padding=padding),
                relu_0=nn.ReLU(),
                pool_0=nn.MaxPool2d(2),
                conv_1=nn.Conv2d(first, second, 5, padding=padding),
                relu_1=nn.ReLU(),
                pool_1=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc_2=nn.Linear(second * left**2, third),
                relu_2=nn.ReLU(),
                fc_3=nn.Linear(third, fourth),
                relu_3=nn.ReLU(),
                fc_4=nn.Linear(fourth, classes),
            )
        )
