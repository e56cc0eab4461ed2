"""What the networks share: scaled widths and the pools that an image size leaves room for."""

from torch import nn


def scaled(kernels: int, width: float) -> int:
    """Return ``kernels`` times the width factor, at least 1."""
    return max(1, round(kernels * width))


def pools_that_fit(wanted: int, image_size: int) -> list[nn.Module]:
    """Return ``wanted`` places of 2x2 max pools, filled as far as the image size allows.

    A pool halves the size; the pools that fit without going below 1x1 are spread evenly over the
    places, and the other places do nothing. With 32x32 images five pools fit.

    Args:
        wanted: Pools of the published network.
        image_size: Height and width of the images in pixels.
    """
    fitting = min(wanted, image_size.bit_length() - 1)
    filled = {(i + 1) * wanted // fitting - 1 for i in range(fitting)}
    return [nn.MaxPool2d(2) if place in filled else nn.Identity() for place in range(wanted)]


def pooled_size(pools: list[nn.Module], image_size: int) -> int:
    """Return the height and width that is left after all ``pools``."""
    return image_size >> sum(isinstance(pool, nn.MaxPool2d) for pool in pools)


def conv3x3(inputs: int, kernels: int) -> nn.Conv2d:
    """Return a 3x3 convolution with padding 1 and bias, as SimCNN and ResCNN use throughout."""
    return nn.Conv2d(inputs, kernels, 3, padding=1)
