"""Baking: layers that compute their weights become plain ones that give the same outputs."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from cnnsplitter.baking import bake
from cnnsplitter.channels import ChannelMap
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

Wrap = Callable[[nn.Module], nn.Module]


def old_weight_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning, match="deprecated"):
        return torch.nn.utils.weight_norm(layer)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def doubled(layer: nn.Module) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Doubled())


WRAPS: list[Wrap] = [
    *(old_weight_norm, torch.nn.utils.spectral_norm, doubled),
    *(parametrizations.weight_norm, parametrizations.spectral_norm),
]


def network(wrap: Wrap) -> nn.Sequential:
    """Wrap every layer with a weight but the first and the last."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        wrap(nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)),
        nn.ReLU(),
        wrap(nn.Conv2d(6, 8, 1, groups=2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        wrap(nn.Linear(8, 5)),
        nn.Linear(5, 2),
    ).double()


def images(size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: f"{wrap.__module__}.{wrap.__name__}")
def test_wrapped_layers_become_plain_and_selectable(wrap: Wrap) -> None:
    net = network(wrap).eval()
    x = images()
    expected = net(x)
    names = sorted(net.state_dict())
    baked = bake(net)
    torch.testing.assert_close(baked(x), expected, atol=1e-12, rtol=1e-12)
    assert sorted(net.state_dict()) == names
    assert all(type(m) in (nn.Conv2d, nn.Linear) for m in baked.modules() if hasattr(m, "weight"))
    after = ChannelMap.trace(baked, x)
    assert after.frozen == ()
    selection = after.random_selection(0.5, generator=torch.Generator().manual_seed(1))
    narrow = extract(baked, after, selection)
    torch.testing.assert_close(narrow(x), masked_forward(baked, after, selection, x))


@pytest.mark.parametrize("wrap", WRAPS, ids=lambda wrap: f"{wrap.__module__}.{wrap.__name__}")
def test_wrapped_layers_are_frozen_and_the_reason_names_the_cure(wrap: Wrap) -> None:
    net, x = network(wrap), images()
    if wrap is old_weight_norm:
        with pytest.raises(UnsupportedModelError, match=r"cannot be copied.*bake\(model\)"):
            ChannelMap.trace(net, x)
        return
    before = ChannelMap.trace(net, x)
    assert sum(f.kernels for f in before.frozen) == before.kernel_count == 18
    assert {f.reason.split(";")[-1] for f in before.frozen if f.layer != "0"} == {
        " cnnsplitter.bake(model) makes them plain"
    }


class Remembers(nn.Module):
    """Keeps its last activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.conv(x))
        return self.seen[-1].mean((2, 3))


@pytest.mark.parametrize("use", [bake, lambda net: ChannelMap.trace(net, torch.zeros(2, 3, 8, 8))])
def test_a_kept_activation_is_named(use: Callable[[nn.Module], object]) -> None:
    net = nn.Sequential(nn.Identity(), Remembers())
    net(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UnsupportedModelError, match=r"layer '1' .* 'seen'; .*detach") as caught:
        use(net)
    assert "bake" not in str(caught.value)


def test_flags_sharing_and_plain_layers_stay_as_they_are() -> None:
    shared = parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
    plain = nn.Conv2d(3, 2, 1)
    net = nn.Sequential(shared, nn.ReLU(), shared, plain)
    shared.train()
    plain.eval()
    shared.requires_grad_(False)
    baked = bake(net)
    assert isinstance(baked, nn.Sequential)
    assert baked[0] is baked[2]
    assert type(baked[0]) is nn.Conv2d
    assert (baked[0].training, baked[3].training) == (True, False)
    assert not baked[0].weight.requires_grad
    weights = baked.state_dict()
    assert torch.equal(weights["3.weight"], plain.weight)
    assert baked[3].weight is not plain.weight


def test_a_single_layer_is_baked_too() -> None:
    assert type(bake(parametrizations.weight_norm(nn.Linear(3, 2)))) is nn.Linear


class Noisy(nn.Conv2d):
    """Does more with its input than a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(x.square(), 2 * self.weight, self.bias)


def test_what_no_plain_layer_equals_stays() -> None:
    assert type(bake(nn.Sequential(Noisy(3, 2, 1)))[0]) is Noisy  # type: ignore[index]
    hooked = parametrizations.weight_norm(nn.Conv2d(3, 2, 1))
    hooked.register_forward_hook(lambda module, args, output: 2 * output)
    (layer,) = bake(nn.Sequential(hooked)).children()
    assert parametrize.is_parametrized(layer)


@settings(max_examples=12)
@given(
    kind=st.sampled_from(["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]),
    kernel=st.sampled_from([1, 2, 3, 5]),
    stride=st.integers(1, 3),
    size=st.integers(6, 11),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
)
def test_standardised_convolutions_of_timm(
    kind: str, kernel: int, stride: int, size: int, dilation: int, bias: bool
) -> None:
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    layer = getattr(layers, kind)(
        4, 6, kernel, stride=stride, dilation=dilation, bias=bias, groups=2
    ).double()
    x = torch.cat([images(size), images(size)[:, :1]], dim=1)
    baked = bake(layer)
    assert type(baked) is not type(layer)
    torch.testing.assert_close(baked(x), layer(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "least"),
    [("nf_resnet26", 0.99), pytest.param("dm_nfnet_f0", 0.99, marks=pytest.mark.large)],
)
def test_networks_without_norm_become_selectable(name: str, least: float) -> None:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    net = timm.create_model(name, num_classes=10).double().eval()
    randomise(net, torch.Generator().manual_seed(0))
    x = images(64)
    baked = bake(net)
    with torch.no_grad():
        torch.testing.assert_close(baked(x), net(x), atol=1e-12, rtol=1e-12)
    channels = ChannelMap.trace(baked, x)
    frozen = sum(f.kernels for f in channels.frozen)
    assert 1 - frozen / channels.kernel_count >= least
    assert sum(f.kernels for f in ChannelMap.trace(net, x).frozen) >= 0.6 * channels.kernel_count
