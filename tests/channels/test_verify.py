"""The trial of masked against cut: rounding is told from fault."""

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap


class Chaotic(nn.Module):
    """Maps every element of a feature map so often that the last bit decides its value."""

    def __init__(self, *, mixing: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3)
        self.head = nn.Linear(32, 2)
        self.mixing = mixing

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.second(torch.relu(self.first(x))))
        for _ in range(45):
            x = 3.9 * x * (1 - x)
        x = x.mean((2, 3))
        return self.head(x[:, [1, 0, *range(2, 32)]] if self.mixing else x)  # type: ignore[no-any-return]


class Single(Chaotic):
    """Has a forward that knows single precision only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float())


def test_what_only_rounding_tells_apart_is_not_frozen() -> None:
    channels = ChannelMap.trace(Chaotic(mixing=False), torch.zeros(1, 3, 12, 12))
    assert channels.frozen == ()
    assert channels.unit_count == 64


def test_channels_that_are_mixed_stay_frozen() -> None:
    channels = ChannelMap.trace(Chaotic(mixing=True), torch.zeros(1, 3, 12, 12))
    assert [frozen.layer for frozen in channels.frozen] == ["second"]


def test_a_network_of_single_precision_alone_is_frozen_where_it_differs() -> None:
    channels = ChannelMap.trace(Single(mixing=False), torch.zeros(1, 3, 12, 12))
    assert "different values" in channels.frozen[0].reason


@pytest.mark.parametrize("size", [40, 200])
def test_the_trial_is_right_at_every_size_of_images(size: int) -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * (size // 4) ** 2, 2))
    )
    channels = ChannelMap.trace(net, torch.zeros(1, 3, size, size))
    assert channels.frozen == ()
    assert channels.unit_count == 8
