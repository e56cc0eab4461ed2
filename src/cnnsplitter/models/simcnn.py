"""SimCNN: thirteen 3x3 convolutions in a row (method.md, The networks)."""

from collections import OrderedDict

from torch import nn

from cnnsplitter.models.layers import conv3x3, pooled_size, pools_that_fit, scaled

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Kernels of the convolutions; a 2x2 max pool follows each stage."""
HIDDEN = 512


class SimCNN(nn.Sequential):
    """float[B, channels, image_size, image_size] -> logits float[B, classes].

    Layers are named ``conv_0`` to ``conv_12`` and ``fc_13`` to ``fc_15``.

    Args:
        classes: Number of logits.
        channels: Channels of the images.
        width: Factor on the kernels of every convolution and on the hidden linear layers.
        image_size: Height and width in pixels; where it leaves no room for five pools, fewer
            are spread evenly over their places.
        dropout: Before the first and the second linear layer.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        width: float = 1.0,
        image_size: int = 32,
        dropout: float = 0.5,
    ) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        pools = pools_that_fit(len(STAGES), image_size)
        inputs, number = channels, 0
        for stage, pool in zip(STAGES, pools, strict=True):
            for kernels in (scaled(k, width) for k in stage):
                layers[f"conv_{number}"] = conv3x3(inputs, kernels)
                layers[f"relu_{number}"] = nn.ReLU()
                inputs, number = kernels, number + 1
            layers[f"pool_{number - 1}"] = pool
        layers["flatten"] = nn.Flatten()
        hidden = scaled(HIDDEN, width)
        features = inputs * pooled_size(pools, image_size) ** 2
        layers[f"dropout_{number}"] = nn.Dropout(dropout)
        layers[f"fc_{number}"] = nn.Linear(features, hidden)
        layers[f"relu_{number}"] = nn.ReLU()
        layers[f"dropout_{number + 1}"] = nn.Dropout(dropout)
        layers[f"fc_{number + 1}"] = nn.Linear(hidden, hidden)
        layers[f"relu_{number + 1}"] = nn.ReLU()
        layers[f"fc_{number + 2}"] = nn.Linear(hidden, classes)
        super().__init__(layers)
