import copy
import json
import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from cnnsplitter.classifier import Architecture
from cnnsplitter.errors import SettingsError
from cnnsplitter.models import MODELS, build_from, build_model, initialise


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "classes"), [((3, 32, 32), 10), ((1, 8, 8), 3), ((1, 28, 28), 2), ((3, 64, 64), 5)]
)
def test_every_model_maps_images_to_one_finite_logit_per_class(
    name: str, shape: tuple[int, int, int], classes: int
) -> None:
    net, _ = build_model(name, classes, shape, width=0.25)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    logits = net(images)
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_network_and_touches_no_global_state(name: str) -> None:
    before = torch.get_rng_state()
    net, architecture = build_model(name, 4, (3, 16, 16), width=0.1, seed=5)
    read = json.loads(json.dumps({"name": architecture.name, "a": dict(architecture.arguments)}))
    again = build_from(Architecture(read["name"], read["a"]), seed=5)
    other = build_from(architecture, seed=6)
    assert torch.equal(before, torch.get_rng_state())
    assert str(net) == str(again)
    assert _equal(net, again)
    assert not _equal(net, other)
    assert not any(tensor.is_meta for tensor in net.state_dict().values())


@pytest.mark.parametrize("name", MODELS)
def test_width_scales_every_convolution_to_at_least_one_kernel(name: str) -> None:
    full, half, thin = (
        [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)]
        for net in (build_model(name, 2, (3, 32, 32), width=w)[0] for w in (1.0, 0.5, 0.01))
    )
    assert half == [kernels // 2 for kernels in full]
    assert thin == [max(1, round(kernels / 100)) for kernels in full]


@pytest.mark.parametrize(
    ("name", "published"), [("simcnn", 0.5), ("rescnn", 0.4), ("incecnn", 0.4)]
)
@pytest.mark.parametrize("dropout", [None, 0.0, 0.3])
def test_dropout_is_published_or_set(name: str, published: float, dropout: float | None) -> None:
    net, _ = build_model(name, 2, (3, 8, 8), width=0.1, dropout=dropout)
    shares = {module.p for module in net.modules() if isinstance(module, nn.Dropout)}
    assert shares == {published if dropout is None else dropout}


def test_initialisation_is_he_normal() -> None:
    net = nn.Sequential(nn.Conv2d(64, 128, 3), nn.BatchNorm2d(128), nn.Linear(512, 256, bias=False))
    for tensor in net.state_dict().values():
        tensor.fill_(9)
    initialise(net, torch.Generator().manual_seed(0))
    conv, norm, linear = net
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(linear, nn.Linear)
    assert conv.bias is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert linear.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert (conv.bias == 0).all()
    assert (norm.weight == 1).all()
    assert (norm.running_var == 1).all()
    assert (norm.running_mean == 0).all()


def test_unknown_models_get_the_nearest_match() -> None:
    with pytest.raises(SettingsError, match="unknown model 'resnet200'; did you mean 'resnet20'"):
        build_model("resnet200", 2, (3, 32, 32))
    with pytest.raises(SettingsError, match="did you mean 'simcnn'"):
        build_from(Architecture("simcnnn", {"classes": 2}))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 2, "widht": 1.0}, "argument of model 'simcnn': 'widht'; did you mean 'width'"),
        ({"classes": 2, "depth": 20}, "unknown argument of model 'simcnn': 'depth'"),
        ({}, "'classes' is missing"),
        ({"classes": 0}, "classes is 0, but must be int from 1 to 10000"),
        ({"classes": 10**9}, "classes is 1000000000"),
        ({"classes": True}, "classes is True"),
        ({"classes": 2.0}, "classes is 2.0"),
        ({"classes": "2"}, "classes is '2'"),
        ({"classes": 2, "width": float("nan")}, "width is nan"),
        ({"classes": 2, "width": None}, "width is None"),
        ({"classes": 2, "image_size": 1}, "image_size is 1"),
        ({"classes": 2, "width": 4, "image_size": 512}, "parameters, more than"),
    ],
)
def test_bad_arguments_from_a_file_are_refused(arguments: Mapping[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        build_from(Architecture("simcnn", arguments))


def test_a_partial_builder_does_not_give_away_its_own_arguments() -> None:
    with pytest.raises(SettingsError, match="unknown argument of model 'resnet20': 'depth'"):
        build_from(Architecture("resnet20", {"classes": 2, "depth": 8000}))


def test_images_that_a_model_cannot_take_are_refused() -> None:
    with pytest.raises(SettingsError, match="'lenet5' needs square images, not 32x16"):
        build_model("lenet5", 2, (3, 32, 16))
    net, _ = build_model("resnet20", 2, (3, 32, 16), width=0.1)
    assert net(torch.zeros(2, 3, 32, 16)).shape == (2, 2)


def test_dropout_for_a_model_without_it_is_refused_unless_zero() -> None:
    build_model("resnet20", 2, (3, 8, 8), width=0.1, dropout=0)
    with pytest.raises(SettingsError, match="'resnet20' has no dropout"):
        build_model("resnet20", 2, (3, 8, 8), dropout=0.5)


def test_models_can_be_copied() -> None:
    for name in MODELS:
        net, _ = build_model(name, 2, (3, 8, 8), width=0.1)
        assert _equal(net, copy.deepcopy(net))


def _equal(a: nn.Module, b: nn.Module) -> bool:
    tensors, others = a.state_dict(), b.state_dict()
    return tensors.keys() == others.keys() and all(
        torch.equal(tensors[k], others[k]) for k in tensors
    )
