"""Hooks that a user registered are part of the network: followed, or their place is frozen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.surgery import extract, masked_forward

OFFSET = torch.arange(6.0)[:, None, None]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3)
        self.third, self.head = nn.Conv2d(8, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.head(y.mean((2, 3)))  # type: ignore[no-any-return]


def after(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Any]:
    """Return what registers a hook that changes what a layer gives."""
    return lambda layer: layer.register_forward_hook(lambda module, args, y: change(y))


def before(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], Any]:
    """Return what registers a hook that changes what a layer gets."""
    return lambda layer: layer.register_forward_pre_hook(lambda module, args: change(args[0]))


HOOKS: dict[str, tuple[Callable[[nn.Module], Any], str, int]] = {
    "scales": (after(lambda y: 2 * y), "first", 0),
    "moves": (before(lambda x: x + 1), "second", 0),
    "normalises": (after(lambda y: y / y.norm(dim=1, keepdim=True)), "first", 6),
    "turns round": (after(lambda y: y.flip(1)), "first", 0),
    "adds a constant of a width": (after(lambda y: y + OFFSET), "first", 6),
    "takes the first half": (after(lambda y: torch.cat([y[:, :3], 0 * y[:, 3:]], 1)), "first", 6),
    "sorts": (before(lambda x: x.sort(1).values), "second", 6),
}


@pytest.mark.parametrize(("register", "layer", "frozen"), HOOKS.values(), ids=HOOKS)
def test_masked_is_cut_with_hooks_that_change_values(
    register: Callable[[nn.Module], Any], layer: str, frozen: int
) -> None:
    torch.manual_seed(0)
    net = Net()
    register(net.get_submodule(layer))
    channels = ChannelMap.trace(net, torch.zeros(1, 3, 10, 10))
    assert sum(part.kernels for part in channels.frozen) == frozen
    selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 3, 10, 10)
    with torch.no_grad():
        whole = extract(net, channels, channels.full_selection())
        assert torch.equal(whole(x), net(x))
        expected = masked_forward(net, channels, selection, x)
        found = extract(net, channels, selection)(x)
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(expected, net(x), atol=1e-4)


def test_a_hook_that_draws_is_refused() -> None:
    net = Net()
    net.first.register_forward_hook(lambda module, args, y: y * torch.rand_like(y))
    with pytest.raises(UnsupportedModelError, match=r"Net \(.*test_hooks\.py:\d+\) gives other"):
        ChannelMap.trace(net, torch.zeros(1, 3, 10, 10))
