import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.mask_cost import MaskCost
from cnnsplitter.models import build_model
from strategies import Spec, build, specs


def require_exact(strong: Classifier, share: float) -> None:
    channels = ChannelMap.trace(strong.net, strong.example())
    cost = MaskCost.of(strong, channels)
    keep = channels.random_selection(share, generator=torch.Generator().manual_seed(0)).keep
    for kept in (keep, channels.full_selection().keep):
        narrow = narrow_copy(strong.net, channels, kept)
        assert cost(kept).item() == measure_cost(narrow, strong.input_shape).multiply_adds


@settings(max_examples=6)
@given(specs(), st.floats(0.1, 1))
def test_masked_cost_is_that_of_the_cut_network(spec: Spec, share: float) -> None:
    require_exact(Classifier(build(spec).float(), tuple("abcd"), (3, 8, 8)), share)


@pytest.mark.parametrize("name", ["rescnn", "incecnn", "resnet20"])
def test_cost_of_this_packages_networks_is_exact(name: str) -> None:
    net, _ = build_model(name, 10, (3, 32, 32), width=0.1)
    require_exact(Classifier(net.eval(), tuple("abcdefghij"), (3, 32, 32)), 0.6)


def test_cost_of_transposed_convolutions_is_exact() -> None:
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 3, stride=2), nn.ReLU()),
        *(nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    require_exact(Classifier(net.eval(), tuple("abcd"), (3, 12, 12)), 0.6)


def test_cost_has_a_gradient() -> None:
    net, _ = build_model("simcnn", 10, (3, 32, 32), width=0.1)
    strong = Classifier(net.eval(), tuple("abcdefghij"), (3, 32, 32))
    channels = ChannelMap.trace(net, strong.example())
    cost = MaskCost.of(strong, channels)
    masks = torch.rand(2, channels.unit_count, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(cost(masks)[1], masks)
    assert not slope[0].any()
    nudge = torch.zeros_like(masks)
    nudge[1, 3] = 1e-3
    with torch.no_grad():
        change = (cost(masks + nudge) - cost(masks - nudge))[1] / 2e-3
    assert slope[1, 3].item() == pytest.approx(change.item())
