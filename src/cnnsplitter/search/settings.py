"""The settings of the genetic search."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cnnsplitter.errors import require_known
from cnnsplitter.inference import WantedPrecision
from cnnsplitter.objective import Objective
from cnnsplitter.search.base import UnitMap
from cnnsplitter.search.operators import MutationKind
from cnnsplitter.search.presets import PRESETS, Ratios, StartRatios
from cnnsplitter.search.tournament import Rules

Share = Annotated[float, Field(ge=0, le=1)]


class GeneticSettings(BaseModel):
    """Settings of `GeneticSearch`; the defaults are the corrected ones (method.md section 4).

    Attributes:
        population: Individuals per class.
        generations: Populations that are evaluated at most.
        parents: Individuals per class that have children.
        elites: Individuals per class that live on unchanged.
        mutation: Share of a child's genes that is chosen for mutation.
        mutation_kind: ``"flip"``, or the published ``"redraw"``, half of which changes nothing.
        form: ``"normalised"``, or the published ``"paper"`` form of the fitness; see `Objective`.
        alpha: Weight of the accuracy; the difference between class modules weighs 1 - alpha.
        size_weight: Weight of the share of kernels dropped.
        gamma: Accuracy below which the accuracy weight is raised.
        thresholds: Number of classes to the accuracy that ensembles of that size must reach to
            survive; a size not listed uses the nearest smaller one's. None by default, because the
            published ones fit networks of about 90 % accuracy: below it they let only ``least`` in.
        least: Ensembles that survive a merge even below the threshold.
        most: Ensembles that survive a merge at most.
        start_ratios: Group name to the keep-ratios of the start population, or the published form
            by numbers of convolutions; None takes the problem's, as do groups that are not named.
        patience: Stop after so many generations without a better one; 0 never stops early.
        early_generations: So many generations at the beginning are rougher: they see a part of the
            search images, or run in bfloat16; the best ensemble is chosen among the later ones.
        early_images: How many images that part has, in the same proportions of classes; 0 for all.
        early_precision: In which early generations run; ``auto`` is bfloat16 where the device
            computes in it natively. Later generations run in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    population: int = Field(default=24, ge=2)
    generations: int = Field(default=20, ge=1)
    parents: int = Field(default=12, ge=2)
    elites: int = Field(default=5, ge=1)
    mutation: Share = 0.05
    mutation_kind: MutationKind = "flip"
    form: Literal["normalised", "paper"] = "normalised"
    alpha: Share = 0.9
    size_weight: float = Field(default=0.1, ge=0)
    gamma: Share = 0.9
    thresholds: Mapping[Annotated[int, Field(ge=2)], Share] = Field(default_factory=dict)
    least: int = Field(default=50, ge=1)
    most: int = Field(default=500, ge=1)
    start_ratios: StartRatios | Mapping[str, Ratios] | None = Field(
        default=None, union_mode="left_to_right"
    )
    patience: int = Field(default=0, ge=0)
    early_generations: int = Field(default=0, ge=0)
    early_images: int = Field(default=0, ge=0)
    early_precision: WantedPrecision = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.elites >= self.population:
            raise ValueError(f"elites ({self.elites}) must be fewer than population")
        if self.parents > self.population:
            raise ValueError(f"parents ({self.parents}) must be at most population")
        if self.early_images and not self.early_generations:
            raise ValueError("early_images needs early_generations: give both")
        if self.early_generations and not self.early_images and self.early_precision == "float32":
            raise ValueError("early_generations needs early_images or another early_precision")
        if self.early_generations >= self.generations:
            raise ValueError(
                f"early_generations ({self.early_generations}) must be fewer than generations"
            )
        if self.least > self.most:
            raise ValueError(f"least ({self.least}) must be at most most ({self.most})")
        if self.form == "paper" and self.size_weight:
            raise ValueError("the paper form has no size: set size_weight to 0")
        if self.alpha == 0 and self.size_weight == 0 and self.form == "normalised":
            raise ValueError("alpha and size_weight cannot both be 0")
        return self

    @classmethod
    def paper(cls, name: str) -> Self:
        """Return the settings of a published configuration.

        50 parents and 20 elites are common to all; the population is 100 for 200 generations, or
        50 for 100 with five classes.

        Args:
            name: ``simcnn-cifar10``, ``simcnn-svhn``, ``simcnn-svhn-5``, ``rescnn-cifar10``,
                ``rescnn-svhn`` or ``rescnn-svhn-5``.

        Raises:
            SettingsError: Another name.
        """
        require_known("preset", name, PRESETS)
        return cls(**PRESETS[name])

    @property
    def objective(self) -> Objective:
        """What is maximised."""
        if self.form == "paper":
            return Objective.paper(self.alpha, self.gamma)
        return Objective(self.alpha, 1 - self.alpha, self.size_weight, self.gamma)

    @property
    def needs_sensitivity(self) -> bool:
        """Whether the start ratios come from the measured curves; own ones replace them."""
        return self.start_ratios is None

    @property
    def needs_importance(self) -> bool:
        """Units of one layer are ranked by it."""
        return True

    @property
    def rules(self) -> Rules:
        """Who survives a merge of the tournament."""
        return Rules(self.thresholds, self.least, self.most)

    def ratios_for(
        self, channels: UnitMap, measured: Mapping[str, tuple[float, ...]]
    ) -> dict[str, tuple[float, ...]]:
        """Return group name to the keep-ratios of the start population.

        Args:
            channels: Of the strong model.
            measured: Those chosen from sensitivity curves, used where the settings give none.

        Raises:
            SettingsError: ``start_ratios`` names a group or convolution that does not exist.
        """
        self.check(channels)
        if isinstance(self.start_ratios, StartRatios):
            return self.start_ratios.for_groups(channels)
        return {**measured, **(self.start_ratios or {})}

    def check(self, channels: UnitMap) -> None:
        """Raise ``SettingsError`` if ``start_ratios`` names what the network does not have."""
        if isinstance(self.start_ratios, StartRatios):
            self.start_ratios.for_groups(channels)
            return
        for name in self.start_ratios or {}:
            require_known("layer", name, [group.name for group in channels.groups])
