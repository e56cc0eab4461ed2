"""ResCNN: twelve 3x3 convolutions, three pairs of them with a skip (method.md, The networks)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from cnnsplitter.models.layers import conv3x3, pooled_size, pools_that_fit, scaled

WIDTHS = (64, 128, 128, 128, 256, 512, 512, 512, 512, 512, 512, 512)
"""Kernels of the convolutions; the skips tie convolutions 1+3, 5+7 and 9+11."""
POOLS = 5


class ResCNN(nn.Module):
    """float[B, channels, image_size, image_size] -> logits float[B, classes].

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution.
        image_size: Height and width in pixels; where it leaves no room for five pools, fewer
            are spread evenly over their places.
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
        widths = [channels, *(scaled(kernels, width) for kernels in WIDTHS)]
        convs = [conv3x3(a, b) for a, b in pairwise(widths)]
        self.conv_0, self.conv_1, self.conv_2, self.conv_3, self.conv_4, self.conv_5 = convs[:6]
        self.conv_6, self.conv_7, self.conv_8, self.conv_9, self.conv_10, self.conv_11 = convs[6:]
        pools = pools_that_fit(POOLS, image_size)
        self.pool_1, self.pool_4, self.pool_5, self.pool_8, self.pool_9 = pools
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc_12 = nn.Linear(widths[-1] * pooled_size(pools, image_size) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        relu = self.relu
        x = relu(self.conv_0(x))
        x = self.pool_1(relu(self.conv_1(x)))
        x = x + relu(self.conv_3(relu(self.conv_2(x))))
        x = self.pool_4(relu(self.conv_4(x)))
        x = self.pool_5(relu(self.conv_5(x)))
        x = x + relu(self.conv_7(relu(self.conv_6(x))))
        x = self.pool_8(relu(self.conv_8(x)))
        x = self.pool_9(relu(self.conv_9(x)))
        x = x + relu(self.conv_11(relu(self.conv_10(x))))
        return self.fc_12(self.dropout(torch.flatten(x, 1)))  # type: ignore[no-any-return]
