"""Image classifiers of transformers, whose outputs are objects: from channel map to file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import load_data
from cnnsplitter.errors import ModelError
from cnnsplitter.search import GeneticSearch
from cnnsplitter.splitting import split
from cnnsplitter.storage.saving import load, save
from cnnsplitter.surgery import extract, masked_forward
from strategies import randomise

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

WIDTHS: dict[str, Any] = {"hidden_sizes": [8, 12, 16], "depths": [1, 2, 1], "embedding_size": 8}
CONVNEXT: dict[str, Any] = {
    "hidden_sizes": [8, 12, 16],
    "depths": [1, 2, 1],
    "num_stages": 3,
    "patch_size": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "ResNet": {**WIDTHS, "layer_type": "basic"},
    "RegNet": {**WIDTHS, "groups_width": 4},
    "ConvNext": CONVNEXT,
    "ConvNextV2": CONVNEXT,
    "MobileNetV1": {"depth_multiplier": 0.25, "min_depth": 4},
    "MobileNetV2": {"depth_multiplier": 0.15, "min_depth": 4},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
}
LEAST = {"ConvNext": 1.0, "ConvNextV2": 0.1}


def network(name: str, classes: int = 10, channels: int = 3) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(
        num_channels=channels, num_labels=classes, **CONFIGS[name]
    )
    net: nn.Module = getattr(transformers, f"{name}ForImageClassification")(config)
    randomise(net, torch.Generator().manual_seed(1))
    return net.eval()


def images(channels: int = 3, size: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, channels, size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", CONFIGS)
def test_masked_equals_cut_and_the_full_selection_changes_nothing(name: str) -> None:
    net, x = network(name).double(), images()
    channels = ChannelMap.trace(net, x, unknown="freeze")
    moving = sum(int(channels.kernels_per_unit[g.units].sum()) for g in channels.groups)
    assert moving / channels.kernel_count >= LEAST.get(name, 1.0), channels.frozen
    with torch.no_grad():
        whole = extract(net, channels, channels.full_selection())
        assert torch.equal(whole(x).logits, net(x).logits)
        selection = channels.random_selection(0.5, generator=torch.Generator().manual_seed(2))
        expected: Any = masked_forward(net, channels, selection, x)
        narrow = extract(net, channels, selection)
        torch.testing.assert_close(narrow(x).logits, expected.logits, atol=1e-11, rtol=1e-9)
        assert narrow(x).logits.shape == (2, 10)


@pytest.mark.parametrize("name", ["ResNet", "ConvNext"])
def test_from_splitting_to_the_file(name: str, tmp_path: Path) -> None:
    data = load_data("digits[0-2]")
    strong = Classifier(network(name, 3, 1), data.classes, data.input_shape)
    strong.check()
    search = GeneticSearch(population=4, parents=4, elites=2, generations=2)
    modules = split(strong, data, search=search, search_images=30, seed=0)
    composed = compose(modules)
    save(composed, tmp_path / "composed.safetensors")
    build: Callable[[str], nn.Module] = lambda _: network(name, 3, 1)  # noqa: E731
    again = load(tmp_path / "composed.safetensors", build=build)
    x, _ = next(data.test.batches(4))
    with torch.no_grad():
        assert torch.equal(again(x), composed(x))


def test_a_network_that_gives_no_logits_is_refused() -> None:
    backbone = transformers.ResNetModel(transformers.ResNetConfig(num_channels=3, **WIDTHS))
    strong = Classifier(backbone, ("a", "b"), (3, 32, 32))
    with pytest.raises(ModelError, match=r"gives a .*Pooling.*, but must give a tensor"):
        strong.check()
