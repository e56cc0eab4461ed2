import pytest
from pydantic import ValidationError

from cnnsplitter.errors import SettingsError
from cnnsplitter.objective import Objective
from cnnsplitter.search import GeneticSearch, StartRatios
from cnnsplitter.search.presets import PRESETS
from contracts import ToyChannels

TABLE = {
    "simcnn-cifar10": (100, 0.05, range(7), (0.6, 0.7, 0.8), (0.4, 0.5, 0.6, 0.7), 0.90, 0.80),
    "simcnn-svhn": (100, 0.10, range(7), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3, 0.4), 0.95, 0.80),
    "simcnn-svhn-5": (50, 0.10, range(5), (0.4, 0.5, 0.6, 0.7), (0.3, 0.4), 0.95, 0.85),
    "rescnn-cifar10": (100, 0.05, (0, 1, 3, 4, 5, 7), (0.5, 0.6, 0.7), (0.2, 0.3, 0.4), 0.9, 0.80),
    "rescnn-svhn": (100, 0.10, (1, 3, 4, 5, 7), (0.3, 0.4, 0.5), (0.2, 0.3), 0.90, 0.85),
    "rescnn-svhn-5": (50, 0.10, (4, 5, 7), (0.3, 0.4, 0.5), (0.2, 0.3), 0.90, 0.85),
}


def test_there_are_six_presets() -> None:
    assert set(PRESETS) == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
def test_presets_hold_the_published_settings(name: str) -> None:
    population, mutation, sensitive, ratios, others, gamma, last = TABLE[name]
    search = GeneticSearch.paper(name)
    assert (search.population, search.generations) == (population, 2 * population)
    assert (search.parents, search.elites) == (50, 20)
    assert (search.mutation, search.mutation_kind) == (mutation, "redraw")
    assert search.objective == Objective.paper(0.9, gamma)
    assert search.start_ratios == StartRatios(
        sensitive=tuple(sensitive), sensitive_ratios=ratios, other_ratios=others
    )
    size = 5 if name.endswith("-5") else 10
    assert search.rules.threshold(size) == last
    assert search.rules.threshold(2) == 0.95
    assert (search.least, search.most) == (50, 500)
    assert isinstance(search, GeneticSearch)


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean 'simcnn-cifar10'"):
        GeneticSearch.paper("simcnn-cifar")


def test_ratios_by_convolution_reach_tied_groups() -> None:
    ratios = StartRatios(sensitive=(0, 3), sensitive_ratios=(0.9,), other_ratios=(0.1,))
    found = ratios.for_groups(ToyChannels((4, 4, 4, 4), tied=(1, 3)))
    assert found == {"conv0": (0.9,), "conv1+conv3": (0.9,), "conv2": (0.1,)}


def test_no_convolution_may_be_sensitive() -> None:
    ratios = StartRatios(sensitive=(), sensitive_ratios=(0.9,), other_ratios=(0.1,))
    assert ratios.for_groups(ToyChannels((4,))) == {"conv0": (0.1,)}


def test_ratios_outside_0_to_1_are_refused() -> None:
    with pytest.raises(ValidationError, match="other_ratios"):
        StartRatios(sensitive=(0,), sensitive_ratios=(0.5,), other_ratios=(1.5,))
