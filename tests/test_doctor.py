import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import toys
from cnnsplitter.channels import ChannelMap
from cnnsplitter.doctor import SHARES, Examination, examine
from cnnsplitter.errors import ModelError, UnsupportedModelError
from cnnsplitter.search import GeneticSearch, SearchProblem

SMALL = GeneticSearch(population=6, generations=4, parents=3, elites=2)


class Odd(nn.Module):
    """Mixes the channels of its second convolution by an operator that is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.second = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(x.logcumsumexp(dim=1))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def healthy() -> Examination:
    return examine(toys.classifier("resnet20"), search=SMALL, search_images=40, train_images=50)


def test_counts_are_those_of_the_channel_map(healthy: Examination) -> None:
    strong = toys.classifier("resnet20")
    channels = ChannelMap.trace(strong.net, strong.example())
    convs = [m for m in strong.net.modules() if isinstance(m, nn.Conv2d)]
    rows = healthy.layers()
    assert healthy.obstacle is None
    assert [row["kernels"] for row in rows] == [conv.out_channels for conv in convs]
    assert sum(row["selectable"] for row in rows) == healthy.selectable == channels.kernel_count
    assert {row["frozen_because"] for row in rows} == {None}
    tied = {row["group"]: row["layers"] for row in healthy.ties()}
    assert sorted(tied.values()) == [3, 6, 10]
    assert sum(row["units"] for row in healthy.ties()) == 2 + 1 + 3


def test_masked_and_cut_agree(healthy: Examination) -> None:
    assert tuple(check.share for check in healthy.checks) == SHARES
    assert all(check.agrees for check in healthy.checks)
    kernels = [check.kernels for check in healthy.checks]
    assert kernels == sorted(kernels)


def test_the_estimate_adds_up(healthy: Examination) -> None:
    estimate = healthy.estimate
    assert estimate is not None
    assert estimate.candidates == 3 * (6 + 3 * 4)
    assert estimate.images == 40
    assert estimate.importance == pytest.approx(50 * estimate.full_image)
    runs = estimate.candidates * (estimate.cut + 40 * estimate.cut_image)
    assert estimate.search == pytest.approx(runs + 4 * estimate.tournament)
    assert estimate.total == estimate.importance + estimate.sensitivity + estimate.search
    assert estimate.sensitivity > 0


def test_candidates_are_as_many_as_a_search_runs() -> None:
    strong, counted = toys.classifier("lenet5", classes=("a", "b"), width=1.0), 0
    channels = toys.traced(strong)

    def score(owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        nonlocal counted
        counted += len(owner)
        return torch.rand(len(owner), 20, generator=torch.Generator().manual_seed(counted))

    ratios = {group.name: (0.5,) for group in channels.groups}
    importance = torch.rand(2, channels.unit_count, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 2
    problem = SearchProblem(channels, ("a", "b"), importance, ratios, labels, score)
    SMALL.run(problem, seed=0)
    estimate = examine(strong, search=SMALL, search_images=20).estimate
    assert estimate is not None
    # Children that equal a known selection are not run again.
    assert 0.8 * estimate.candidates <= counted <= estimate.candidates


def test_an_unknown_operator_is_frozen_and_named() -> None:
    strong = toys.own_classifier(Odd())
    found = examine(strong, search=SMALL, search_images=20)
    assert found.obstacle is not None
    assert "aten.logcumsumexp" in found.obstacle
    assert "test_doctor.py:" in found.obstacle
    first, second = found.layers()
    assert (first["selectable"], first["frozen_because"]) == (6, None)
    assert second["selectable"] == 0
    assert "aten.logcumsumexp" in second["frozen_because"]
    assert "test_doctor.py:" in second["frozen_because"]
    assert all(check.agrees for check in found.checks)


def test_where_nothing_can_be_selected_there_is_no_estimate() -> None:
    class Mixed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x).mean((2, 3)).sort(dim=1).values  # type: ignore[no-any-return]

    found = examine(toys.own_classifier(Mixed(nn.Conv2d(3, 3, 3))))
    assert (found.selectable, found.estimate) == (0, None)
    assert json.dumps(found.to_json())


def test_json_is_complete(healthy: Examination) -> None:
    value: dict[str, Any] = json.loads(json.dumps(healthy.to_json()))
    assert value["kernels"] == value["selectable"] == sum(row["kernels"] for row in value["layers"])
    assert value["estimate"]["total"] > 0
    assert [check["agrees"] for check in value["checks"]] == [True] * len(SHARES)


def test_the_model_is_left_as_it_was() -> None:
    strong = toys.classifier("weak-rescnn-5").train()
    before = {k: (v.clone(), v.stride()) for k, v in strong.state_dict().items()}
    examine(strong, search=SMALL, search_images=20)
    assert all(module.training for module in strong.modules())
    for name, tensor in strong.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor.stride() == before[name][1]


def test_what_cannot_be_followed_at_all_is_an_error() -> None:
    class Chooses(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[0](x if x.sum() > 0 else -x).mean((2, 3))  # type: ignore[no-any-return]

    with pytest.raises(UnsupportedModelError, match="Chooses cannot be traced"):
        examine(toys.own_classifier(Chooses(nn.Conv2d(3, 3, 3))))
    with pytest.raises(ModelError, match="has no convolution"):
        examine(toys.own_classifier(nn.Sequential(nn.Flatten(), nn.Linear(768, 3))))
