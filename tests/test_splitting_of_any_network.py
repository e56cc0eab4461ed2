"""Networks that this package has not built are split, too, and left as they were."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnsplitter.class_modules import compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits, load_data
from cnnsplitter.errors import ModelError
from cnnsplitter.progress import Step
from cnnsplitter.search import GeneticSearch
from cnnsplitter.splitting import Split, split

SEARCH = GeneticSearch(population=6, parents=4, elites=2, generations=3)


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load_data("digits[0-4]")


def run(net: nn.Module, data: Splits, **settings: Any) -> Split:
    return split(net, data, search=SEARCH, seed=3, search_images=60, **settings)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 8, 3, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("fails", [False, True])
def test_any_network_can_be_split_and_is_left_as_it_was(fails: bool, digits: Splits) -> None:
    net = Own()
    net.norm.eval()
    net.first.weight.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    flags = [(m, m.training) for m in net.modules()]
    random = torch.get_rng_state()

    def stop(step: Step, /) -> None:
        if fails and step.stage == "search":
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            run(net, digits, progress=stop)
    else:
        modules = run(net, digits)
        assert modules["3"].architecture is None
        assert {id(p) for m in modules.values() for p in m.parameters()}.isdisjoint(
            id(p) for p in net.parameters()
        )
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
    assert [(m, m.training) for m in net.modules()] == flags
    assert not net.first.weight.requires_grad
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_network_without_convolution_is_split_by_its_linear_layers(digits: Splits) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 5))
    strong = Classifier(net, digits.classes, digits.input_shape)
    with pytest.raises(ModelError, match='units="all"'):
        run(strong, digits)
    found = run(strong, digits, units="all")
    images = digits.test.images.read(torch.arange(6))
    assert compose(found)(images).shape == (6, 5)
    assert len(found.rows(strong)) == 5
