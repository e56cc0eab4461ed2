"""Random flips and shifts of a batch of images, drawn from a generator."""

import torch
from torch import Tensor
from torch.nn import functional


def flip_some(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image of [B, C, H, W] left to right with a chance of one half."""
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(flipped.view(-1, 1, 1, 1), images.flip(3), images)


def shift_each(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image of [B, C, H, W] by up to ``pixels`` both ways; black (0) moves in."""
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows = (torch.arange(height) + down).unsqueeze(2)
    columns = (torch.arange(width) + right).unsqueeze(1)
    padded = functional.pad(images, [pixels] * 4)
    return padded[torch.arange(count).view(-1, 1, 1), :, rows, columns].permute(0, 3, 1, 2)
