"""Copies of a network that have shapes but no numbers."""

import copy
from typing import Any

import torch
from torch import nn


def without_data(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device, in evaluation mode; nothing of its size is allocated."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo).eval()
