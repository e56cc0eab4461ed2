"""Recipes: a whole run, from training to the patch report, as one TOML file."""

import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cnnsplitter.data import SplitShares
from cnnsplitter.errors import SEEDS, SettingsError, require_known
from cnnsplitter.models import Scalar, is_factory, require_reference, require_scalars
from cnnsplitter.patches.fitting import Fitting
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.reading import no_such_file, read_toml
from cnnsplitter.search import DEFAULT_SEARCH, SEARCHES, GeneticSearch, compensates
from cnnsplitter.search.registry import AnySearch
from cnnsplitter.sensitivity import RATIOS
from cnnsplitter.settings import parse_settings
from cnnsplitter.training import Training

TARGET = "{target}"
"""Stands for the target class in the weak model's data source."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Settings):
    """The images of one model.

    Attributes:
        source: As ``load_data`` takes it; in the weak model's, ``{target}`` stands for the class.
        train: Share of the images for training that trains the weights.
        search: Share that scores selections and stops training early.
        calibration: Share that calibrations are fitted on.
        test: Share of all images, where there is no official test set.
        balance: Take as many images of every class as of the smallest one, in each set.
    """

    source: str
    train: float = 0.7
    search: float = 0.15
    calibration: float = 0.15
    test: float = 0.2
    balance: bool = False

    @property
    def shares(self) -> SplitShares:
        """How the images are shared out."""
        return SplitShares(self.train, self.search, self.calibration, self.test)


class ModelSettings(_Settings):
    """A network and its training.

    Attributes:
        model: Name of the network, ``torchvision:NAME``, ``timm:NAME``, or a
            ``package.module:factory``, which is imported and called: a recipe with one is code,
            and is read from a file only by who says so.
        arguments: More arguments of the network; all arguments of a factory.
        width: Factor on the kernels of every convolution.
        dropout: Share that is dropped; None for the published one.
        mean: Preprocessing, one value or one per channel.
        std: Likewise.
        training: How it is trained.
        target_images: At most so many training images of the target class (a scarce class).
    """

    model: str
    arguments: dict[str, Scalar] = Field(default_factory=dict)
    width: float = Field(default=1.0, gt=0)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    training: Training = Training()
    target_images: int | None = Field(default=None, ge=2)

    @field_validator("model")
    @classmethod
    def _is_known(cls, name: str) -> str:
        require_reference(name)
        return name

    @field_validator("arguments")
    @classmethod
    def _can_be_kept(cls, arguments: dict[str, Scalar]) -> dict[str, Scalar]:
        require_scalars(arguments)
        return arguments

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the network."""
        return Preprocessing(self.mean, self.std)


class SearchSettings(_Settings):
    """How the strong model is split.

    Attributes:
        name: Name of the search; None for the one whose table is given, or else the default one.
        preset: A published configuration of the genetic search to start from.
        genetic: Settings of the genetic search that differ from the preset or the defaults.
        gradient: Settings of the gradient search that differ from the defaults.
        importance: Likewise of importance thresholding.
        random: Likewise of the random search.
        units: What is selected: kernels, or with ``"all"`` rows of hidden linear layers, too.
        compensate: Whether what is kept takes over what was cut; None: after a gradient search.
        images: At most so many search images score selections; None for all.
        ratios: Keep-ratios at which sensitivity is measured, if the search needs it.
    """

    name: str | None = None
    preset: str | None = None
    genetic: dict[str, Any] = Field(default_factory=dict)
    gradient: dict[str, Any] = Field(default_factory=dict)
    importance: dict[str, Any] = Field(default_factory=dict)
    random: dict[str, Any] = Field(default_factory=dict)
    units: Literal["conv", "all"] = "conv"
    compensate: bool | None = None
    images: int | None = Field(default=None, ge=2)
    ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=RATIOS, min_length=1)

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        _ = self.search
        return self

    @property
    def told(self) -> dict[str, Any]:
        """Name, units and all settings of the search, those that are defaults, too."""
        return {"name": self.chosen, "units": self.units, **self.search.model_dump(mode="json")}

    @property
    def chosen(self) -> str:
        """Name of the search."""
        if self.name is not None:
            return self.name
        if self.preset is not None:
            return "genetic"
        return self._tables[0] if len(self._tables) == 1 else DEFAULT_SEARCH

    @property
    def _tables(self) -> list[str]:
        return [name for name in SEARCHES if getattr(self, name)]

    @property
    def search(self) -> AnySearch:
        """The search with all settings filled in."""
        name = self.chosen
        require_known("search", name, SEARCHES)
        if self.preset is None:
            return parse_settings(SEARCHES[name], getattr(self, name), name)
        if name != "genetic":
            raise SettingsError(f"preset is a setting of the genetic search, not of {name!r}")
        base = GeneticSearch.paper(self.preset).model_dump()
        return parse_settings(GeneticSearch, base | self.genetic, name)

    @property
    def compensates(self) -> bool:
        """Whether class modules are compensated."""
        return compensates(self.search) if self.compensate is None else self.compensate

    def adapted(self, **changes: Any) -> "SearchSettings":
        """Return the settings with the given values, where not None, of the genetic search.

        Where no search is named it is the genetic one then. With ``population`` the numbers of
        parents and elites change in proportion, unless given.

        Raises:
            SettingsError: A value that is out of range, or settings of another search.
        """
        changes = _given(**changes)
        if not changes:
            return self
        if self.chosen != "genetic" and (self.name or self._tables):
            raise SettingsError(
                f"{next(iter(changes))} is a setting of the genetic search, not of {self.chosen!r}"
            )
        values = self.model_dump() | {"name": "genetic"}
        start = parse_settings(SearchSettings, values, "search").search
        if isinstance(start, GeneticSearch) and "population" in changes:
            changes = _sizes(start, changes["population"]) | changes
        values["genetic"] |= changes
        return parse_settings(SearchSettings, values, "search")


class PatchSettings(_Settings):
    """What is patched and how.

    Attributes:
        targets: Classes of the strong model; each gets its own weak model and patch.
        calibration: See ``Fitting``, as for all that follow.
        rule: How scores and probabilities are brought together.
        objective: What the bias is set for.
        floor: Least change of the accuracy on the other classes.
        gate: Share of the gain in F1 that a gate must keep.
    """

    targets: tuple[str, ...] = Field(min_length=1)
    calibration: str = "learned"
    rule: str | None = None
    objective: str = "likelihood"
    floor: float = -0.01
    gate: float | None = None

    @model_validator(mode="after")
    def _is_valid(self) -> Self:
        _ = self.fitting
        return self

    @property
    def fitting(self) -> Fitting:
        """How the patches are fitted."""
        return Fitting(self.calibration, self.rule, self.objective, self.floor, self.gate)


class Recipe(_Settings):
    """A whole run.

    Attributes:
        title: One line for people.
        seed: Of everything that is random.
        strong_data: Images of the strong model.
        weak_data: Images of the weak model.
        strong: The strong model.
        weak: The weak model.
        search: How the strong model is split.
        patch: What is patched.
    """

    title: str
    seed: int = Field(default=0, ge=0, lt=SEEDS)
    strong_data: DataSettings
    weak_data: DataSettings
    strong: ModelSettings
    weak: ModelSettings
    search: SearchSettings = SearchSettings()
    patch: PatchSettings

    def adapted(
        self,
        *,
        width: float | None = None,
        epochs: int | None = None,
        population: int | None = None,
        generations: int | None = None,
        search_images: int | None = None,
        targets: Sequence[str] | None = None,
        seed: int | None = None,
    ) -> "Recipe":
        """Return the recipe with the given settings, where not None, to fit a small machine.

        With ``population`` the numbers of parents and elites shrink in proportion.

        Raises:
            SettingsError: A value that is out of range.
        """
        values = self.model_dump()
        for model in (values["strong"], values["weak"]):
            model |= _given(width=width and width * model["width"])
            model["training"] |= _given(epochs=epochs)
        search = self.search.adapted(population=population, generations=generations)
        values["search"] = search.model_dump() | _given(images=search_images)
        values["patch"] |= _given(targets=targets and tuple(targets))
        values |= _given(seed=seed)
        return parse_settings(Recipe, values, "settings")


def _sizes(search: GeneticSearch, population: int) -> dict[str, int]:
    share = population / search.population
    return {
        "population": population,
        "parents": max(2, round(share * search.parents)),
        "elites": max(1, round(share * search.elites)),
    }


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    return tuple(
        sorted(f.name.removesuffix(".toml") for f in files(__name__).iterdir() if _is_toml(f.name))
    )


def load_recipe(name_or_path: str, *, trust_code: bool = False) -> Recipe:
    """Read a recipe by name, or from a TOML file.

    Args:
        name_or_path: A name of ``recipe_names``, or a path that ends in ``.toml``.
        trust_code: Take a file that names factories, which whoever runs it imports and calls.

    Raises:
        SettingsError: Unknown name (with the nearest match), broken TOML, unknown or wrong keys,
            or a factory without ``trust_code``.
    """
    path = Path(name_or_path)
    if _is_toml(path.name):
        if not path.is_file():
            raise SettingsError(no_such_file(path, "recipe file"))
        found = parse_settings(Recipe, read_toml(path), str(path))
        if not trust_code:
            _require_no_code(found, path)
        return found
    require_known("recipe", name_or_path, recipe_names())
    text = (files(__name__) / f"{name_or_path}.toml").read_text(encoding="utf-8")
    return parse_settings(Recipe, tomllib.loads(text), name_or_path)


def _require_no_code(recipe: Recipe, path: Path) -> None:
    for key, settings in (("strong", recipe.strong), ("weak", recipe.weak)):
        if is_factory(settings.model):
            raise SettingsError(
                f"{path}: key '{key}.model' names code, {settings.model!r}; if you trust it, run "
                "the recipe with --trust-code (in Python, load_recipe(..., trust_code=True))"
            )


def _is_toml(name: str) -> bool:
    return name.endswith(".toml")


__all__ = [
    "TARGET",
    "DataSettings",
    "ModelSettings",
    "PatchSettings",
    "Recipe",
    "SearchSettings",
    "load_recipe",
    "parse_settings",
    "recipe_names",
]
