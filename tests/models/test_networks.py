"""The structure of the single networks against what the papers say."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cnnsplitter.models import build_model
from cnnsplitter.models.incecnn import InceCNN, Inception
from cnnsplitter.models.layers import pooled_size, pools_that_fit
from cnnsplitter.models.resnet import BasicBlock, PadShortcut


def _build(name: str, size: int = 32, **settings: float) -> nn.Module:
    return build_model(name, 10, (3, size, size), **settings)[0].eval()  # type: ignore[arg-type]


def _convs(net: nn.Module) -> list[nn.Conv2d]:
    return [module for module in net.modules() if isinstance(module, nn.Conv2d)]


def test_simcnn_has_4224_kernels() -> None:
    assert sum(conv.out_channels for conv in _convs(_build("simcnn"))) == 4224


@pytest.mark.parametrize(("name", "millions"), [("simcnn", 313.73), ("rescnn", 431.17)])
def test_multiply_adds_are_the_published_ones(name: str, millions: float) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        _build(name).to("meta")(torch.zeros(1, 3, 32, 32))
    assert counter.get_total_flops() / 2 / 1e6 == pytest.approx(millions, abs=0.005)


def test_simcnn_names_match_the_published_weights() -> None:
    layers = [f"conv_{i}" for i in range(13)] + ["fc_13", "fc_14", "fc_15"]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert _build("simcnn", width=0.1).state_dict().keys() == expected


def test_simcnn_on_32_pixels_is_the_published_sequence() -> None:
    net = _build("simcnn", width=1 / 64)
    kinds = [type(module).__name__[:4] for module in net.children()]
    stage2, stage3 = ["Conv", "ReLU"] * 2 + ["MaxP"], ["Conv", "ReLU"] * 3 + ["MaxP"]
    head = ["Flat", "Drop", "Line", "ReLU", "Drop", "Line", "ReLU", "Line"]
    assert kinds == stage2 * 2 + stage3 * 3 + head


def test_rescnn_is_the_published_network() -> None:
    net = _build("rescnn", width=0.125)
    state = net.state_dict()

    def conv(i: int, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f"conv_{i}.weight"], state[f"conv_{i}.bias"], padding=1).relu()

    def pool(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = pool(conv(1, conv(0, images)))
    x = x + conv(3, conv(2, x))
    x = pool(conv(5, pool(conv(4, x))))
    x = x + conv(7, conv(6, x))
    x = pool(conv(9, pool(conv(8, x))))
    x = x + conv(11, conv(10, x))
    expected = x.flatten(1) @ state["fc_12.weight"].T + state["fc_12.bias"]
    torch.testing.assert_close(net(images), expected)


def test_incecnn_structure() -> None:
    net = _build("incecnn")
    assert isinstance(net, InceCNN)
    sizes = [(conv.in_channels, conv.out_channels, conv.kernel_size[0]) for conv in _convs(net)]
    stem = [(3, 64, 3), (64, 128, 3), (128, 256, 3)]
    first = [(256, 256, 1), (256, 256, 3), (256, 64, 5)]
    second = [(576, 512, 1), (576, 512, 3), (576, 64, 5)]
    third = [(1088, 512, 1), (1088, 512, 3), (1088, 64, 5)]
    assert sizes == stem + first + second + third
    assert sum(isinstance(module, nn.BatchNorm2d) for module in net.modules()) == len(sizes)
    assert net.linear.in_features == 1088


def test_inception_concatenates_its_branches() -> None:
    step = Inception(4, (2, 3, 5)).eval()
    images = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    parts = step(images).split([2, 3, 5], dim=1)
    assert all(torch.equal(p, b(images)) for p, b in zip(parts, step.branches, strict=True))


@pytest.mark.parametrize(
    ("name", "kernels", "features"),
    [
        ("weak-simcnn", [64] * 4, 64 * 2 * 2),
        ("weak-rescnn", [64] * 4, 64 * 8 * 8),
        ("weak-simcnn-5", [8] * 2, 8 * 8 * 8),
        ("weak-rescnn-5", [8] * 3, 8 * 8 * 8),
        ("lenet5", [6, 16], 400),
    ],
)
def test_weak_networks(name: str, kernels: list[int], features: int) -> None:
    net = _build(name)
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    assert [conv.out_channels for conv in _convs(net)] == kernels
    assert linear[0].in_features == features


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_resnet_depth_counts_the_layers_with_weights(depth: int) -> None:
    net = _build(f"resnet{depth}")
    layers = [module for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth
    published = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85}[depth]
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(published, abs=0.006)


@settings(max_examples=25, deadline=None)
@given(
    inputs=st.integers(1, 6),
    more=st.integers(0, 7),
    stride=st.integers(1, 2),
    size=st.integers(1, 9),
)
def test_shortcut_against_functional_padding(
    inputs: int, more: int, stride: int, size: int
) -> None:
    x = torch.randn(2, inputs, size, size, generator=torch.Generator().manual_seed(0))
    expected = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, more // 2, more - more // 2))
    shortcut = PadShortcut(inputs, inputs + more, stride)
    assert torch.equal(shortcut(x), expected)
    assert shortcut.pad.padding == (0, 0, 0, 0, more // 2, more - more // 2)
    assert BasicBlock(inputs, inputs + more, stride).eval()(x).shape == expected.shape


@given(wanted=st.integers(1, 6), size=st.integers(1, 300))
def test_as_many_pools_as_fit(wanted: int, size: int) -> None:
    pools = pools_that_fit(wanted, size)
    left = size
    for pool in pools:
        left = left // 2 if isinstance(pool, nn.MaxPool2d) else left
    assert len(pools) == wanted
    assert left == pooled_size(pools, size) >= 1
    assert left == 1 or all(isinstance(pool, nn.MaxPool2d) for pool in pools)
