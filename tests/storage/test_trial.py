"""A trial run takes no memory, leaves nothing behind, and tells what does not work."""

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import ModelError
from cnnsplitter.storage.trial import is_light


class Pooled(nn.Sequential):
    """Takes images of one channel and any size."""

    def __init__(self, logits: int, *layers: nn.Module) -> None:
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, logits))


def classifier(side: int, net: nn.Module) -> Classifier:
    return Classifier(net, toys.CLASSES, (1, side, side))


def test_the_largest_image_that_is_light() -> None:
    """4096 x 4096 values are as many as are allowed."""
    assert is_light(classifier(4096, Pooled(3)))
    assert not is_light(classifier(4097, Pooled(3)))


def test_the_largest_output_of_a_layer_that_is_light() -> None:
    channels = nn.Upsample(scale_factor=2)
    assert is_light(classifier(2048, Pooled(3, channels)))
    assert not is_light(classifier(2049, Pooled(3, channels)))


def test_a_heavy_network_must_give_a_logit_per_class() -> None:
    with pytest.raises(ModelError, match=r"shape \(1, 4097, 4097\): \(2, 4\)"):
        is_light(classifier(4097, Pooled(4)))


def test_a_heavy_network_that_breaks_off_is_told_in_one_line() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("\n first line\nsecond line")

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyError

    with pytest.raises(ModelError, match=r"4097\): first line$"):
        is_light(classifier(4097, Broken()))
    with pytest.raises(ModelError, match=r"4097\): KeyError$"):
        is_light(classifier(4097, Silent()))
    assert is_light(classifier(8, Broken())), "a real run tells"


def test_nothing_is_left_in_the_network() -> None:
    class Keeping(nn.Module):
        kept: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            self.kept = x
            return x

    model = classifier(4097, Pooled(3, Keeping(), nn.BatchNorm2d(1))).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not is_light(model)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())
    modules = list(model.modules())
    assert not any(module._forward_hooks for module in modules)
    assert all(module.training for module in modules)
    assert not [module for module in modules if isinstance(getattr(module, "kept", None), Tensor)]
