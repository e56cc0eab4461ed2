"""Small networks, each with one odd motif: masked equals cut, or the channels are frozen."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # its usual name

from cnnsplitter.channels import ChannelMap
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

Forward = Callable[["Toy", Tensor], Tensor]


class Toy(nn.Module):
    """Two convolutions with 8 and 8 kernels, something between them, and a head."""

    def __init__(self, between: Forward) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.part = 3
        self.between = between
        self.head = nn.LazyLinear(2)

    def conv(self, x: Tensor) -> Tensor:
        return self.second(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self, torch.relu(self.first(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=generator)


def check(net: nn.Module, seed: int = 0) -> ChannelMap:
    """Trace ``net``, assert that masked equals cut, and return the map."""
    x = images()
    net = net.double().eval()
    net(x)
    randomise(net, torch.Generator().manual_seed(seed))
    channels = ChannelMap.trace(net, x)
    assert torch.equal(extract(net, channels, channels.full_selection())(x), net(x))
    for share in (0.3, 0.7):
        selection = channels.random_selection(share, generator=torch.Generator().manual_seed(seed))
        expected = masked_forward(net, channels, selection, x)
        narrow = extract(net, channels, selection)
        torch.testing.assert_close(narrow(x), expected, atol=1e-12, rtol=1e-12)
    return channels


def functional(net: Toy, x: Tensor) -> Tensor:
    return F.conv2d(x, net.second.weight, net.second.bias)


def functional_and_called(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x) + functional(net, x)


def slice_assignment(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    y[:, :4] = x[:, :4]
    return y


def slice_assignment_by_attribute(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    y[:, : net.part] = 0.5
    return y


def slice_sum(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    y[:, : net.part] += x[:, : net.part]
    return y


def filled_in_place(net: Toy, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y.add_(net.conv(x))
    return y


def every_second(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x)[:, ::2]


def view_with_sizes(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x).view(-1, 2, 4, 6, 6).sum(1)


def several_inputs(net: Toy, x: Tensor) -> Tensor:
    return torch.cat([x, net.conv(x), x, x.new_ones(len(x), 1, 6, 6)], dim=1)


def in_place(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    y.relu_().mul_(2).add_(x)
    return y


def flipped(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x.flip(1)) + x


def flipped_only(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x.flip(1))


def stacked(net: Toy, x: Tensor) -> Tensor:
    return torch.stack([x, net.conv(x)], dim=1).amax(1)


def one_behind_the_other(net: Toy, x: Tensor) -> Tensor:
    return torch.stack([x, net.conv(x)], dim=1).flatten(1, 2)


def narrowed(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x).narrow(1, 0, net.part)


def shuffled(net: Toy, x: Tensor) -> Tensor:
    return F.channel_shuffle(net.conv(x), 2) + x


def pixels_to_channels(net: Toy, x: Tensor) -> Tensor:
    return F.pixel_unshuffle(net.conv(x), 2)


def pixels_from_channels(net: Toy, x: Tensor) -> Tensor:
    return F.pixel_shuffle(net.conv(x), 2)


def pooled_by_attention(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x).flatten(2)
    weights = torch.softmax(x.mean(1).flatten(1), dim=1)[:, :, None]
    return torch.matmul(y, weights)[:, :, None]


def channel_attention(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x).flatten(2)
    return torch.matmul(torch.matmul(y, y.mT), y).view(x.shape)


def largest_pixels(net: Toy, x: Tensor) -> Tensor:
    return F.adaptive_max_pool2d(net.conv(x), 2)


def local_response(net: Toy, x: Tensor) -> Tensor:
    return F.local_response_norm(net.conv(x), 3)


def position(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x).swapaxes(1, 3).swapaxes(1, 3).movedim(1, -1).movedim(-1, 1)


def other_type(net: Toy, x: Tensor) -> Tensor:
    return net.conv(x.to(torch.float32).to(x.dtype))


def mixed_by_a_matrix(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    return torch.matmul(y.new_ones(8, 8), y.flatten(2)).view(y.shape)


def convolved_along_the_channels(net: Toy, x: Tensor) -> Tensor:
    y = net.conv(x)
    along = F.conv1d(y.flatten(2).mT, y.new_ones(36, 36, 3), padding=1)
    return along.mT.reshape(y.shape)


@pytest.mark.parametrize(
    ("between", "units"),
    [
        (functional, 0),
        (functional_and_called, 0),
        (slice_assignment, 0),
        (slice_assignment_by_attribute, 16),
        (slice_sum, 5 + 5),
        (filled_in_place, 16),
        (every_second, 8),
        (view_with_sizes, 8),
        (several_inputs, 16),
        (in_place, 8),
        (flipped, 8),
        (flipped_only, 16),
        (stacked, 8),
        (one_behind_the_other, 16),
        (narrowed, 8 + 3),
        (shuffled, 4),
        (pixels_to_channels, 16),
        (pixels_from_channels, 8 + 2),
        (pooled_by_attention, 8),
        (channel_attention, 0),
        (largest_pixels, 16),
        (local_response, 8),
        (position, 16),
        (other_type, 16),
    ],
)
def test_right_or_frozen(between: Forward, units: int) -> None:
    channels = check(Toy(between))
    assert channels.unit_count == units, channels.frozen


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (mixed_by_a_matrix, "mixes channels"),
        (convolved_along_the_channels, "a convolution runs along the channels"),
        (local_response, "channels are padded"),
    ],
)
def test_what_mixes_channels_is_frozen_for_its_own_reason(between: Forward, reason: str) -> None:
    channels = check(Toy(between))
    assert [entry.layer for entry in channels.frozen] == ["second"]
    assert reason in channels.frozen[0].reason


def crossed(parts: Sequence[Tensor]) -> Tensor:
    """One part in the place of another, so that channels do not stay where they were."""
    return torch.cat([torch.relu(part) for part in reversed(parts)], dim=1)


@pytest.mark.parametrize(
    ("between", "sizes", "units"),
    [
        (lambda net, x: crossed(net.conv(x).chunk(2, 1)), {}, 8 + 4),
        (lambda net, x: crossed(net.conv(x).split(net.size, 1)), {"size": 4}, 8 + 4),
        (lambda net, x: crossed(net.conv(x).split(net.whole // 2, 1)), {"whole": 8}, 8 + 4),
        (lambda net, x: crossed(net.conv(x).split(net.sizes, 1)), {"sizes": [2, 6]}, 16),
        (lambda net, x: crossed(net.conv(x).split((net.a, net.b), 1)), {"a": 2, "b": 6}, 16),
        (lambda net, x: crossed(net.conv(x).split(4, 1)), {}, 8),
        (lambda net, x: crossed(net.conv(x).split([2, 6], 1)), {}, 8),
        (lambda net, x: crossed(net.conv(x).split(net.part, 1)), {}, 8),
    ],
    ids=["chunks", "size", "whole", "list", "two", "by number", "by numbers", "with a rest"],
)
def test_parts_need_their_sizes_as_attributes(
    between: Forward, sizes: dict[str, Any], units: int
) -> None:
    net = Toy(between)
    vars(net).update(sizes)
    channels = check(net)
    assert channels.unit_count == units, channels.frozen


@settings(max_examples=6)
@given(
    groups=st.sampled_from([2, 3, 4, 6]),
    inputs=st.integers(2, 4),
    outputs=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_grouped_convolutions_leave_as_much_to_choose_as_they_can(
    groups: int, inputs: int, outputs: int, seed: int
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, groups * inputs, 1),
        nn.ReLU(),
        nn.Conv2d(groups * inputs, groups * outputs, 3, groups=groups),
        nn.ReLU(),
        nn.Conv2d(groups * outputs, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    channels = check(net, seed)
    # Equal shares of all groups leave the positions in a group, of inputs and outputs.
    assert channels.unit_count == max(groups, inputs + outputs) + 2


@pytest.mark.parametrize(("groups", "units"), [(1, 4 + 6 + 5), (2, 5)])
def test_transposed_convolutions(groups: int, units: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=groups),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    )
    channels = check(net)
    assert channels.unit_count == units
    grouped = [
        entry for entry in channels.frozen if "grouped or computed transposed" in entry.reason
    ]
    assert bool(grouped) == (groups > 1)


@pytest.mark.parametrize("slopes", [1, 4])
def test_slopes_of_the_negative_part(slopes: int) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.PReLU(slopes),
        nn.Conv2d(4, 2, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2, 2),
    )
    assert check(net).unit_count == 4 + 2


def test_kernels_with_computed_weights_are_counted_and_frozen() -> None:
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
    net = nn.Sequential(normed, nn.ReLU(), nn.Conv2d(4, 5, 1), nn.AdaptiveAvgPool2d(1))
    channels = check(nn.Sequential(net, nn.Flatten(), nn.Linear(5, 2)))
    assert channels.kernel_count == 4 + 5
    assert [(entry.layer, entry.kernels) for entry in channels.frozen] == [("0.0", 4)]
    assert "computed from others" in channels.frozen[0].reason


class Radix(nn.Module):
    """Split attention over a radix, as in ResNeSt."""

    def __init__(self, radix: int, groups: int, width: int, *, by_group: bool) -> None:
        super().__init__()
        self.radix, self.groups, self.by_group = radix, groups, by_group
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv = nn.Conv2d(4, radix * groups * width, 1, groups=groups)
        self.fc1 = nn.Conv2d(groups * width, 6, 1)
        self.fc2 = nn.Conv2d(6, radix * groups * width, 1)
        self.head = nn.Linear(groups * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        batch, channels, height, width = x.shape
        x = x.reshape(batch, self.radix, channels // self.radix, height, width)
        gap = x.sum(1).mean((2, 3), keepdim=True)
        weights = self.fc2(torch.relu(self.fc1(gap)))
        if self.by_group:
            weights = weights.view(batch, self.groups, self.radix, -1).transpose(1, 2).softmax(1)
        else:
            weights = weights.view(batch, self.radix, -1).softmax(1)
        weights = weights.reshape(batch, -1).view(batch, self.radix, -1, 1, 1)
        return self.head((x * weights).sum(1).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("by_group", [False, True])
@settings(max_examples=3)
@given(st.integers(2, 3), st.sampled_from([1, 2, 4]), st.integers(5, 6), st.integers(0, 99))
def test_views_over_a_radix(by_group: bool, radix: int, groups: int, width: int, seed: int) -> None:
    channels = check(Radix(radix, groups, width, by_group=by_group), seed)
    assert channels.frozen == ()
    assert channels.unit_count >= 6


class Shared(nn.Module):
    """Two modules with one weight, of which one also has a bias, in one stream or in two."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 1)
        self.first = nn.Conv2d(5, 5, 3, padding=1)
        self.second = nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.apart = apart
        self.head = nn.Linear(10 if apart else 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(self.first(x))
        z = self.second(x if self.apart else y)
        return self.head((torch.cat([y, z], 1) if self.apart else z).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("apart", "units"), [(True, 10), (False, 5)])
def test_a_weight_of_two_modules_ties_their_kernels(apart: bool, units: int) -> None:
    channels = check(Shared(apart=apart))
    assert channels.unit_count == units


class Statistics(nn.Module):
    """Two norms with one mean."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.first, self.second = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(self.left(x)), self.second(self.right(x))]
        return self.head(torch.relu(torch.cat(parts, 1)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_mean_of_two_norms_ties_their_channels() -> None:
    net = Statistics().double()  # Another type would give each a mean of its own.
    net.second.running_mean = net.first.running_mean
    assert check(net).unit_count == 6
