"""Networks with shapes but no numbers."""

from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from cnnsplitter.errors import ModelError
from cnnsplitter.nets import copied


def without_data(model: nn.Module) -> nn.Module:
    """Copy a network to the meta device, in evaluation mode; nothing of its size is allocated.

    Raises:
        ModelError: It has parameters without a size.
        UnsupportedModelError: PyTorch cannot copy it.
    """
    memo: dict[int, Any] = {}
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ModelError(f"parameter {name!r} has no size yet; run the network once on images")
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copied(model, memo).eval()


@torch.no_grad()
def run_shapes(model: nn.Module, shape: tuple[int, ...]) -> Any:
    """Run a network on an image batch of ``shape`` for the shapes alone; no number is computed.

    Raises:
        RuntimeError: Or another error of the network, if its shapes do not fit together.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    empty = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next(model.parameters()).dtype
    return functional_call(model, empty, (torch.empty(shape, dtype=dtype, device="meta"),))
