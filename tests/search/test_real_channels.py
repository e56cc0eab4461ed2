"""The search on the channel maps of the published networks."""

import pytest
import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.models import build_model
from cnnsplitter.search import GeneticSearch, SearchProblem, StartRatios
from cnnsplitter.search.genes import GeneMap
from contracts import PlantedScorer


def trace(name: str, width: float = 1.0) -> ChannelMap:
    net, _ = build_model(name, 10, (3, 32, 32), width=width)
    return ChannelMap.trace(net.eval(), torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize(("name", "genes"), [("simcnn", 940), ("rescnn", 630)])
def test_published_networks_have_the_published_genes(name: str, genes: int) -> None:
    channels = trace(name)
    importance = torch.zeros(10, channels.unit_count)
    assert GeneMap.build(channels.groups, importance).gene_count == genes


def test_sensitive_convolutions_of_the_presets_are_whole_groups() -> None:
    channels = trace("rescnn", width=0.1)
    numbers = {layer.name: number for number, layer in enumerate(channels.layers)}
    tied = [
        [numbers[name] for name in group.layers]
        for group in channels.groups
        if len(group.layers) > 1
    ]
    assert sorted(tied) == [[1, 3], [5, 7], [9, 11]]
    for name in ("rescnn-cifar10", "rescnn-svhn", "rescnn-svhn-5"):
        ratios = GeneticSearch.paper(name).start_ratios
        assert isinstance(ratios, StartRatios)
        found = ratios.for_groups(channels)
        for group in channels.groups:
            inside = [numbers[layer] in ratios.sensitive for layer in group.layers]
            assert all(inside) == any(inside)
            assert found[group.name] == (
                ratios.sensitive_ratios if any(inside) else ratios.other_ratios
            )


def test_search_on_a_real_map_gives_valid_selections() -> None:
    channels = trace("rescnn", width=0.05)
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 10
    importance = torch.rand(10, channels.unit_count, generator=generator)
    noise = torch.randn(10, 60, generator=generator)
    problem = SearchProblem(
        channels,
        tuple("abcdefghij"),
        importance,
        {},
        labels,
        PlantedScorer(importance > 0.5, labels, noise),
    )
    preset = GeneticSearch.paper("rescnn-svhn").model_dump()
    small = {"population": 8, "parents": 4, "elites": 2, "generations": 3, "least": 5, "most": 20}
    result = GeneticSearch.model_validate({**preset, **small}).run(problem, seed=0)
    assert len(result.history) == 3
    for keep in result.selections:
        assert all(bool(keep[required].any()) for required in channels.required)
