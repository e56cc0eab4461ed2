"""What a network expects of its input: the one step between stored images and the first layer."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnsplitter.errors import SettingsError


@dataclass(frozen=True)
class Preprocessing:
    """Per-channel normalisation ``(x - mean) / std`` of images scaled to [0, 1].

    Attributes:
        mean: One value for all channels or one per channel, of the [0, 1] scale.
        std: Likewise; positive.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        finite = all(math.isfinite(m) for m in self.mean)
        positive = all(0 < s < math.inf for s in self.std)
        if not (self.mean and self.std and finite and positive):
            raise SettingsError(f"preprocessing needs finite means and positive stds, got {self}")

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise ``images`` [B, C, H, W]: uint8 is scaled to [0, 1] first, floats are not."""
        scaled = images.float() / 255 if images.dtype == torch.uint8 else images
        mean, std = (
            torch.tensor(v, dtype=scaled.dtype, device=scaled.device).view(1, -1, 1, 1)
            for v in (self.mean, self.std)
        )
        return (scaled - mean) / std


IMAGENET = Preprocessing((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
