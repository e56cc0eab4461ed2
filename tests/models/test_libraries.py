"""Networks of other libraries with arguments, which may come from a file of a stranger."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cnnsplitter.classifier import Architecture, Classifier
from cnnsplitter.errors import SettingsError
from cnnsplitter.models import build_from, build_model
from cnnsplitter.storage.saving import load, save

pytest.importorskip("torchvision", reason="networks of torchvision")
ALEXNET = "torchvision:squeezenet1_1"


@pytest.mark.parametrize(
    ("name", "library", "arguments"),
    [
        ("torchvision:mobilenet_v3_small", "torchvision", {"dropout": 0.0, "reduced_tail": True}),
        ("timm:resnet10t", "timm", {"drop_rate": 0.5, "act_layer": "silu"}),
    ],
)
def test_arguments_reach_the_library_and_survive_a_file(
    name: str, library: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip(library, reason="its networks")
    net, architecture = build_model(name, 3, (3, 32, 32), arguments=arguments)
    plain, _ = build_model(name, 3, (3, 32, 32))
    assert repr(net) != repr(plain)
    assert architecture.arguments == {"classes": 3, "channels": 3, **arguments}
    saved = Classifier(net, ("a", "b", "c"), (3, 32, 32), None, architecture).eval()
    save(saved, tmp_path / "net")
    again = load(tmp_path / "net")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(x), saved(x))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (ALEXNET, {"weights": "DEFAULT"}, "weights are brought by `adopt`"),
        (ALEXNET, {"weights_backbone": "x"}, "weights are brought"),
        ("timm:resnet10t", {"pretrained": True}, "weights are brought"),
        ("timm:resnet10t", {"pretrained_cfg": "x"}, "weights are brought"),
        ("timm:resnet10t", {"checkpoint_path": "evil"}, "weights are brought"),
        ("timm:resnet10t", {"cache_dir": "evil"}, "weights are brought"),
        ("timm:resnet10t", {"features_only": True}, "must give logits"),
        (ALEXNET, {"num_classes": 3}, "the number of classes is that of the data"),
        (ALEXNET, {"dropout": 10**6}, "a number of at most 4096"),
        (ALEXNET, {"dropout": float("inf")}, "a number of at most 4096"),
        ("timm:resnet10t", {"act_layer": "../../evil"}, "or a word"),
        ("timm:resnet10t", {"act_layer": "https://evil"}, "or a word"),
        (ALEXNET, {f"a{i}": 1 for i in range(21)}, "at most 20"),
        (ALEXNET, {"widht": 2}, "cannot be built with widht=2"),
        ("torchvision:resnet18", {"groups": 7}, "cannot be built with groups=7"),
        ("torchvision:resnet50", {"width_per_group": 4096}, "parameters, more than"),
        ("torchvision:regnet_y_400mf", {"stem_width": 16}, "cannot be told beforehand"),
        (ALEXNET, {"classes": 10**9}, "classes is 1000000000"),
    ],
)
def test_a_file_can_neither_fetch_nor_fill_the_memory(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    pytest.importorskip(name.partition(":")[0], reason="its networks")
    with pytest.raises(SettingsError, match=message) as raised:
        build_from(Architecture(name, {"classes": 2, "channels": 3, **arguments}))
    assert "\n" not in str(raised.value)
