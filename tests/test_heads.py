import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.heads import cut_head


class ConvHead(nn.Module):
    """The logits are averages of a convolution's outputs, as in SqueezeNet."""

    def __init__(self, scale: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3)
        self.last = nn.Conv2d(5, 3, 1)
        self.scale = nn.Parameter(torch.rand(3)) if scale else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.last(torch.relu(self.first(x)))).mean((2, 3))
        return y if self.scale is None else y * self.scale


def test_a_convolution_can_be_the_head() -> None:
    net = ConvHead()
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(cut_head(net, x, [2, 1])(x), net(x)[:, [2, 1]])


def test_a_head_that_cannot_be_cut_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match=r"ConvHead are not .* layer \('last'\)"):
        cut_head(ConvHead(scale=True), torch.zeros(2, 3, 8, 8), [2, 1])


def test_a_linear_head_keeps_the_rows_of_its_columns() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 5))
    net[2].bias.requires_grad_(False)
    before = [p.clone() for p in net.parameters()]
    narrow = cut_head(net, torch.zeros(1, 3, 3, 3), (4, 0, 1))
    x = torch.rand(3, 3, 3, 3)
    torch.testing.assert_close(narrow(x), net(x)[:, [4, 0, 1]])
    last = narrow.get_submodule("2")
    assert isinstance(last, nn.Linear)
    assert last.out_features == 3
    assert not last.bias.requires_grad
    assert last.weight.requires_grad
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="runs no linear layer or convolution"):
        cut_head(nn.Flatten(), torch.zeros(2, 1, 1, 3), [0, 1])
