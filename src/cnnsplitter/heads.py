"""Cutting logits off: a copy of a network whose last layer gives those of some classes only."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cnnsplitter.channels.cutting import adopt_sizes
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.nets import eval_mode

_ROUNDING = 1e-4


def cut_head(net: nn.Module, example: Tensor, columns: Sequence[int]) -> nn.Module:
    """Return a copy of ``net`` that gives only some of its logits, the same as before.

    The last layer with weights that runs, linear or a convolution, keeps these rows. What is cut
    is tried out on random images.

    Args:
        net: The network; left untouched.
        example: Images float[B, C, H, W], which fix shape, dtype and device.
        columns: Of the logits, in the new order.

    Raises:
        UnsupportedModelError: The logits are not the outputs of that layer, up to what treats all
            of them alike.
    """
    with eval_mode(net), torch.no_grad():
        name = last_layer(net, example)
        images = torch.rand(
            example.shape, dtype=example.dtype, generator=torch.Generator().manual_seed(0)
        ).to(example.device)
        narrow = _with_rows(net, name, columns)
        try:
            found, wanted = narrow(images), net(images)[:, list(columns)]
            same = torch.allclose(found, wanted, rtol=_ROUNDING, atol=_ROUNDING)
        except (RuntimeError, ValueError, TypeError):
            same = False
    if not same:
        raise UnsupportedModelError(
            f"the logits of {type(net).__name__} are not simply the outputs of its last layer "
            f"({name!r}), so the other classes cannot be cut off; end it with a linear layer"
        )
    return narrow


def last_layer(net: nn.Module, example: Tensor) -> str:
    """Return the path of the linear layer or convolution that runs last.

    Args:
        net: The network; as it is, in train or eval mode.
        example: Images float[B, C, H, W], which are run.

    Raises:
        UnsupportedModelError: No such layer runs.
    """
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    ]
    try:
        net(example)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise UnsupportedModelError(f"{type(net).__name__} runs no linear layer or convolution")
    return ran[-1]


def _with_rows(net: nn.Module, name: str, columns: Sequence[int]) -> nn.Module:
    narrow = copy.deepcopy(net)
    layer = narrow.get_submodule(name)
    for key, old in list(layer.named_parameters(recurse=False)):
        rows = old.detach()[list(columns)].clone() if len(old) > max(columns) else old.detach()
        setattr(layer, key, nn.Parameter(rows, requires_grad=old.requires_grad))
    adopt_sizes(narrow, {})
    return narrow
