import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from cnnsplitter.data import SplitShares, parse_source
from cnnsplitter.errors import SettingsError
from cnnsplitter.patches.fitting import Fitting
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.recipes import (
    TARGET,
    Recipe,
    SearchSettings,
    load_recipe,
    parse_settings,
    recipe_names,
)
from cnnsplitter.search import SEARCHES, GeneticSearch, GradientSearch, ThresholdSearch
from cnnsplitter.training import Training

PUBLISHED = (
    "rescnn-cifar10",
    "rescnn-svhn",
    "rescnn-svhn-5",
    "simcnn-cifar10",
    "simcnn-svhn",
    "simcnn-svhn-5",
)
SMALL = """
title = "A small one"
[strong_data]
source = "digits"
[weak_data]
source = "digits"
[strong]
model = "simcnn"
[weak]
model = "lenet5"
[patch]
targets = ["8"]
"""


def written(folder: Path, text: str) -> str:
    (folder / "my.toml").write_text(text)
    return str(folder / "my.toml")


def test_names() -> None:
    assert recipe_names() == ("demo", *PUBLISHED)
    shipped = {f.name for f in files("cnnsplitter.recipes").iterdir() if f.name.endswith(".toml")}
    assert shipped == {f"{name}.toml" for name in recipe_names()}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.search.search
    for data in (recipe.strong_data, recipe.weak_data):
        assert isinstance(data.shares, SplitShares)
        assert parse_source(data.source.replace(TARGET, "x"))
    for model in (recipe.strong, recipe.weak):
        assert isinstance(model.preprocessing, Preprocessing)
    assert recipe.patch.targets
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_use_the_published_search(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.search.search == GeneticSearch.paper(name)
    assert not recipe.search.compensates
    network, data = name.split("-", 1)
    assert recipe.strong.model == network
    assert recipe.weak.model == f"weak-{network}" + ("-5" if data.endswith("-5") else "")
    assert recipe.strong_data.source.startswith(data.split("-")[0])


def test_a_file_is_a_recipe_too(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL))
    assert recipe.title == "A small one"
    assert (recipe.seed, recipe.strong.width, recipe.strong.training) == (0, 1.0, Training())
    assert recipe.search.search == GradientSearch()
    assert recipe.search.compensates
    assert recipe.patch.fitting == Fitting("learned")
    assert recipe.strong.preprocessing == Preprocessing((0.5,), (0.25,))


def test_own_search_settings_change_a_preset(tmp_path: Path) -> None:
    text = SMALL + '[search]\npreset = "simcnn-svhn"\ngenetic = { generations = 3 }\n'
    search = load_recipe(written(tmp_path, text)).search.search
    assert search == GeneticSearch.paper("simcnn-svhn").model_copy(update={"generations": 3})


def test_unknown_recipes_name_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="unknown recipe 'simcn-svhn'; did you mean 'simcnn-"):
        load_recipe("simcn-svhn")
    with pytest.raises(SettingsError, match=r"nowhere\.toml: no such recipe file"):
        load_recipe(str(tmp_path / "nowhere.toml"))


def replaced(old: str, new: str) -> str:
    assert old in SMALL
    return SMALL.replace(old, new)


WRONG = {
    "title = ": "is not valid TOML",
    replaced("title", "titel"): "unknown key 'titel'; did you mean 'title'|title: Field required",
    SMALL + "seed = 1": "unknown key 'patch.seed'",
    replaced('model = "lenet5"', 'model = "lenet5"\nwidht = 2'): (
        "unknown key 'weak.widht'; did you mean 'width'"
    ),
    replaced('model = "lenet5"', 'model = "lenet5"\ntraining = { epoch = 2 }'): (
        "unknown key 'weak.training.epoch'; did you mean 'epochs'"
    ),
    replaced("lenet5", "lenet"): "weak.model: unknown model 'lenet'; did you mean 'lenet5'",
    replaced('model = "lenet5"', ""): "weak.model: Field required",
    replaced('model = "lenet5"', 'model = "lenet5"\nwidth = 0'): "weak.width: Input should be gr",
    replaced('["8"]', "[]"): "patch.targets: Tuple should have at least 1 item",
    SMALL + 'calibration = "minmax"': "patch: unknown calibration 'minmax'; did you mean 'min-max'",
    SMALL + 'rule = "replaces"': "patch: unknown rule 'replaces'; did you mean 'replace'",
    SMALL + '[search]\npreset = "simcnn-svnh"': (
        "search: unknown preset 'simcnn-svnh'; did you mean 'simcnn-svhn'"
    ),
    SMALL + "[search]\ngenetic = { populaton = 4 }": (
        "search: genetic: unknown key 'populaton'; did you mean 'population'"
    ),
    SMALL + "[search]\ngenetic = { population = 4 }": (
        r"search: genetic: elites \(5\) must be fewer than population"
    ),
    SMALL + "[search]\nname = 'gradeint'": "search: unknown search 'gradeint'; did you mean 'grad",
    SMALL + "[search]\nname = 'random'\npreset = 'simcnn-svhn'": "search: preset is a setting of",
    SMALL + "[search]\nratios = [1.5]": "search.ratios.0: Input should be less than 1",
    SMALL
    + "[search.genetic.start_ratios]\nsensitive = [0]\nsensitive_ratios = [0.5]\n"
    + "other_ratios = [0.5]\nmore = 1": "search: genetic: unknown key 'start_ratios.StartRatios.mo",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_recipes_name_file_and_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"my\.toml: ({WRONG[text]})") as raised:
        load_recipe(written(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_files_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"my\.toml: is not valid TOML"):
        load_recipe(str(tmp_path / "my.toml"))


@pytest.mark.parametrize("name", recipe_names())
def test_adapting_nothing_changes_nothing(name: str) -> None:
    assert load_recipe(name).adapted() == load_recipe(name)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("population", [2, 3, 10, 400])
def test_populations_shrink_in_proportion(name: str, population: int) -> None:
    before, after = genetic(name), genetic(name, population=population)
    assert after.population == population
    share = population / before.population
    assert after.parents == max(2, round(share * before.parents))
    assert after.elites == max(1, round(share * before.elites))
    rest = {"population", "parents", "elites"}
    assert after.model_dump(exclude=rest) == before.model_dump(exclude=rest)


def genetic(name: str, **changes: Any) -> GeneticSearch:
    search = load_recipe(name).adapted(**changes).search.search
    assert isinstance(search, GeneticSearch)
    return search


def test_adapted_to_a_small_machine() -> None:
    recipe = load_recipe("simcnn-svhn").adapted(targets=["8"])
    small = recipe.adapted(
        width=0.5, epochs=2, generations=3, search_images=40, targets=["3", "4"], seed=9
    )
    assert small.strong.width == pytest.approx(recipe.strong.width / 2)
    assert small.weak.width == pytest.approx(recipe.weak.width / 2)
    assert (small.strong.training.epochs, small.weak.training.epochs) == (2, 2)
    assert small.strong.training.shift == recipe.strong.training.shift
    assert small.search.search == genetic("simcnn-svhn", generations=3)
    assert small.search.images == 40
    assert small.patch.targets == ("3", "4")
    assert small.seed == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width"),
        ({"epochs": 0}, "epochs"),
        ({"population": 1}, "population"),
        ({"generations": 0}, "generations"),
        ({"search_images": 1}, "images"),
        ({"targets": ()}, "targets"),
        ({"seed": -1}, "seed"),
    ],
)
def test_adapting_out_of_range_names_the_setting(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_recipe("simcnn-svhn").adapted(**change)


def test_search_settings_adapt_alone() -> None:
    adapted = SearchSettings().adapted(population=8, patience=3, alpha=None)
    assert adapted.search == GeneticSearch(population=8, parents=4, elites=2, patience=3)
    fewer = SearchSettings().adapted(population=8, elites=1).search
    assert fewer == GeneticSearch(population=8, parents=4, elites=1)
    with pytest.raises(SettingsError, match="search: genetic: unknown key 'size'"):
        SearchSettings().adapted(size=3)


def test_any_search_by_name_or_by_its_table() -> None:
    for name, kind in SEARCHES.items():
        assert SearchSettings(name=name).search == kind()
    assert SearchSettings(importance={"keep": 0.4}).search == ThresholdSearch(keep=0.4)
    both = {"importance": {"keep": 0.4}, "gradient": {"keep": 0.6}}
    assert SearchSettings.model_validate(both).search == GradientSearch(keep=0.6)
    assert SearchSettings.model_validate(both | {"name": "random"}).search == SEARCHES["random"]()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"compensate": False}, False),
        ({"name": "importance"}, False),
        ({"name": "importance", "compensate": True}, True),
        ({"genetic": {"generations": 9}}, False),
    ],
)
def test_compensation_follows_the_gradient_search(settings: dict[str, Any], expected: bool) -> None:
    assert SearchSettings.model_validate(settings).compensates == expected


@pytest.mark.parametrize(
    "settings", [{"name": "gradient"}, {"gradient": {"keep": 0.5}}, {"name": "random"}]
)
def test_settings_of_the_genetic_search_fit_no_other(settings: dict[str, Any]) -> None:
    chosen = SearchSettings.model_validate(settings)
    assert chosen.adapted() == chosen
    with pytest.raises(SettingsError, match="population is a setting of the genetic search, not"):
        chosen.adapted(population=4)


def test_settings_errors_name_the_place() -> None:
    with pytest.raises(
        SettingsError, match=r"training: unknown key 'epoch'; did you mean 'epochs'"
    ):
        parse_settings(Training, {"epoch": 1}, "training")
    with pytest.raises(SettingsError, match="training: epochs: Input should be greater"):
        parse_settings(Training, {"epochs": 0}, "training")


def test_recipe_files_hold_no_defaults_of_the_strong_shares() -> None:
    for name in PUBLISHED:
        text = (files("cnnsplitter.recipes") / f"{name}.toml").read_text()
        shares = tomllib.loads(text)["strong_data"]
        assert shares["train"] + shares["search"] + shares["calibration"] == pytest.approx(1)
