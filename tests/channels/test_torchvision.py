"""Every CNN classifier of torchvision: the laws of the channel map hold at random weights."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnsplitter.channels import ChannelMap
from cnnsplitter.inference import eval_mode
from cnnsplitter.models import build_model
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

models = pytest.importorskip("torchvision.models", reason="torchvision cannot be imported")

FAMILIES = (
    *("alexnet", "vgg", "resnet", "resnext", "wide_resnet", "densenet", "googlenet"),
    *("inception", "squeezenet", "mobilenet", "mnasnet", "shufflenet", "efficientnet", "regnet"),
    "convnext",
)
SMALL = {
    *("resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
    *("regnet_y_400mf", "googlenet"),
}
NAMES = [n for n in models.list_models(module=models) if n.startswith(FAMILIES)]
SELECTABLE = {"shufflenet_v2_x0_5": 1.0, "squeezenet1_1": 0.74}


def size_for(name: str) -> int:
    return 299 if name == "inception_v3" else 72


def cases() -> list[object]:
    large = [n for n in NAMES if n not in SMALL]
    return [*sorted(SMALL), *(pytest.param(n, marks=pytest.mark.large) for n in large)]


def leaves(outputs: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def largest_error(first: object, second: object) -> float:
    pairs = zip(leaves(first), leaves(second), strict=True)
    return max(((a - b).abs().max() / a.abs().max()).item() for a, b in pairs)


@pytest.mark.parametrize("name", cases())
def test_masked_equals_cut_and_the_full_selection_changes_nothing(name: str) -> None:
    size = size_for(name)
    net, _ = build_model(f"torchvision:{name}", 10, (3, size, size))
    generator = torch.Generator().manual_seed(1)
    randomise(net, generator)
    x = torch.randn(2, 3, size, size, generator=generator)
    channels = ChannelMap.trace(net, x)
    frozen = sum(f.kernels for f in channels.frozen)
    assert 1 - frozen / channels.kernel_count >= SELECTABLE.get(name, 1.0), channels.frozen
    double, x64 = copy.deepcopy(net).double().eval(), x.double()
    with torch.no_grad():
        full = extract(double, channels, channels.full_selection())
        assert largest_error(double(x64), full(x64)) == 0
        for share in (0.3, 0.6, 0.9):
            selection = channels.random_selection(share, generator=generator)
            narrow = extract(double, channels, selection).eval()
            expected = masked_forward(double, channels, selection, x64)
            assert largest_error(expected, narrow(x64)) < 1e-9
            kernels = sum(m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d))
            assert kernels == channels.kernels(selection)


@pytest.mark.parametrize(
    "name", ["googlenet", pytest.param("inception_v3", marks=pytest.mark.large)]
)
def test_auxiliary_heads_are_cut_along(name: str) -> None:
    size = size_for(name)
    net = models.get_model(name, weights=None, init_weights=False, aux_logits=True).eval()
    channels = ChannelMap.trace(net, torch.zeros(2, 3, size, size))
    selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(0))
    narrow = extract(net, channels, selection)
    assert any("aux" in layer.name.lower() for layer in channels.layers)
    with eval_mode(narrow), torch.no_grad():
        narrow.training = True
        outputs = leaves(narrow(torch.zeros(2, 3, size, size)))
    assert len(outputs) == (3 if name == "googlenet" else 2)
