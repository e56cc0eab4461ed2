import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cnnsplitter.calibration import RangeCalibration
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import Cost, measure_cost
from cnnsplitter.models import build_model
from cnnsplitter.patches.patching import Patch, PatchedModel

NAMES = ("a", "b", "c")
SHAPE = (3, 8, 8)


def small_net(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, 3),
    )


@settings(max_examples=20, deadline=None)
@given(
    channels=st.integers(1, 4),
    width=st.integers(1, 6),
    kernel=st.sampled_from([1, 3]),
    size=st.integers(3, 9),
    bias=st.booleans(),
)
def test_counts_equal_the_formulas(
    channels: int, width: int, kernel: int, size: int, bias: bool
) -> None:
    conv = nn.Conv2d(channels, width, kernel, bias=bias)
    side = size - kernel + 1
    net = nn.Sequential(conv, nn.Flatten(), nn.Linear(width * side * side, 3))
    cost = measure_cost(net, (channels, size, size))
    weights = channels * width * kernel * kernel
    assert cost.kernels == width
    assert cost.parameters == weights + width * bias + width * side * side * 3 + 3
    assert cost.multiply_adds == weights * side * side + width * side * side * 3
    assert cost.latency_ms is None


@pytest.mark.parametrize(
    ("name", "kernels", "millions"), [("simcnn", 4224, 313.73), ("rescnn", 4288, 431.17)]
)
def test_published_networks_cost_what_was_published(
    name: str, kernels: int, millions: float
) -> None:
    net, _ = build_model(name, 10, (3, 32, 32))
    cost = measure_cost(net, (3, 32, 32))
    assert cost.kernels == kernels
    assert round(cost.multiply_adds / 1e6, 2) == millions


def test_all_kinds_of_models_add_up() -> None:
    weak = Classifier(small_net(2), NAMES, SHAPE)
    modules = [ClassModule(small_net(4), name, NAMES, SHAPE) for name in NAMES[:2]]
    single, base = measure_cost(modules[0], SHAPE), measure_cost(weak, SHAPE)
    assert single == measure_cost(modules[0].net, SHAPE)
    composed = measure_cost(compose(modules), SHAPE)
    assert composed.relative_to(single).multiply_adds == 2
    calibration = RangeCalibration("min-max", 0.0, 1.0)
    patched = PatchedModel(weak, [Patch("a", modules[0], calibration)])
    total = measure_cost(patched, SHAPE)
    assert total.kernels == base.kernels + single.kernels
    assert total.parameters == base.parameters + single.parameters
    assert total.multiply_adds == base.multiply_adds + single.multiply_adds


def test_latency_is_measured_on_request() -> None:
    cost = measure_cost(small_net(), SHAPE, latency=True, batch_size=2)
    assert cost.latency_ms is not None
    assert cost.latency_ms > 0
    assert cost.relative_to(cost).latency == 1


def test_ratio_by_hand() -> None:
    part, whole = Cost(2, 10, 300, 0.5), Cost(4, 40, 400, 2.0)
    ratio = part.relative_to(whole)
    assert (ratio.kernels, ratio.parameters, ratio.multiply_adds) == (0.5, 0.25, 0.75)
    assert ratio.latency == 0.25
    assert part.relative_to(Cost(4, 40, 400)).latency is None
    assert math.isnan(part.relative_to(Cost(0, 1, 1)).kernels)


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = small_net()

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("no")


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_left_as_it_was(fails: bool) -> None:
    model = Failing() if fails else small_net()
    model.train()
    next(model.children()).eval()
    flags = [m.training for m in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError):
            measure_cost(model, SHAPE)
    else:
        measure_cost(model, SHAPE, latency=True)
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_without_parameters_costs_nothing() -> None:
    assert measure_cost(nn.Flatten(), SHAPE) == Cost(0, 0, 0)
