"""Torch-Pruning as an oracle: its dependency graph cuts the same kernels to the same outputs."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.selection import Selection
from cnnsplitter.surgery import extract
from strategies import randomise

pruning = pytest.importorskip("torch_pruning", reason="torch-pruning is not installed")
models = pytest.importorskip("torchvision.models", reason="torchvision cannot be imported")


def small_vgg() -> nn.Module:
    """The features of a VGG with few kernels, and a classifier that reads them flattened."""
    features = models.vgg.make_layers([16, "M", 32, "M", 64, 48, "M"], batch_norm=True)
    return nn.Sequential(
        features, nn.Flatten(), nn.Linear(48 * 25, 12), nn.ReLU(), nn.Linear(12, 5)
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet, basic": lambda: models.ResNet(models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=5),
    "resnet, bottleneck": lambda: models.ResNet(
        models.resnet.Bottleneck, [1, 2, 1, 1], num_classes=5, width_per_group=16
    ),
    "vgg": small_vgg,
    "densenet": lambda: models.DenseNet(8, (2, 3, 2), num_init_features=12, num_classes=5),
    "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=5, width_mult=0.35),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=5),
    "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=5),
}


def cut_by_oracle(
    net: nn.Module, channels: ChannelMap, selection: Selection, x: Tensor
) -> nn.Module:
    """Prune, group by group, the kernels that ``selection`` drops, with Torch-Pruning alone.

    It is told the kernels of one layer of each group; what is tied to them it finds out itself.
    """
    narrow = copy.deepcopy(net)
    dependencies: Any = pruning.DependencyGraph().build_dependency(narrow, x)
    units_left = {layer.name: layer.units.tolist() for layer in channels.layers}
    for group in channels.groups:
        dropped = set(group.units[~selection.keep[group.units]].tolist())
        if not dropped:
            continue
        name = group.layers[0]
        left = units_left[name]
        places = [place for place, unit in enumerate(left) if unit in dropped]
        layer: Any = narrow.get_submodule(name)
        depthwise = layer.groups == layer.out_channels > 1
        prune = (
            pruning.prune_depthwise_conv_out_channels
            if depthwise
            else pruning.prune_conv_out_channels
        )
        dependencies.get_pruning_group(layer, prune, places).prune()
        for other, units in units_left.items():
            units_left[other] = [unit for unit in units if unit not in dropped]
    return narrow


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_pruning_cuts_to_the_same_outputs(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        net = NETWORKS[name]().double().eval()
    randomise(net, generator)
    x = torch.randn(2, 3, 40, 40, dtype=torch.float64, generator=generator)
    channels = ChannelMap.trace(net, x)
    selection = channels.random_selection(0.5, generator=generator)
    ours = extract(net, channels, selection)
    theirs = cut_by_oracle(net, channels, selection, x)
    shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert channels.kernels(selection) < 0.7 * channels.kernel_count
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-9, atol=1e-12)
