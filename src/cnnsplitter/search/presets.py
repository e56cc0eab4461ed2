"""The six published configurations of the genetic search (method.md section 2, settings)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from cnnsplitter.errors import SettingsError
from cnnsplitter.search.base import UnitMap

Ratio = Annotated[float, Field(gt=0, le=1)]
Ratios = Annotated[tuple[Ratio, ...], Field(min_length=1)]


class StartRatios(BaseModel):
    """Start keep-ratios by the number of the convolution, as the paper lists them.

    Attributes:
        sensitive: Numbers of the sensitive convolutions, from 0 in the order of the network.
        sensitive_ratios: Keep-ratios of the groups that hold a sensitive convolution.
        other_ratios: Keep-ratios of all other groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sensitive: tuple[Annotated[int, Field(ge=0)], ...]
    sensitive_ratios: Ratios
    other_ratios: Ratios

    def for_groups(self, channels: UnitMap) -> dict[str, tuple[float, ...]]:
        """Return group name to keep-ratios.

        Raises:
            SettingsError: The network has fewer convolutions than the list says.
        """
        names = [layer.name for layer in channels.layers]
        if self.sensitive and max(self.sensitive) >= len(names):
            raise SettingsError(
                f"start_ratios: convolution {max(self.sensitive)} is listed as sensitive but the "
                f"network has {len(names)}; leave start_ratios out to take the measured curves"
            )
        sensitive = {names[number] for number in self.sensitive}
        return {
            group.name: self.other_ratios
            if sensitive.isdisjoint(group.layers)
            else self.sensitive_ratios
            for group in channels.groups
        }


def _preset(
    mutation: float,
    gamma: float,
    thresholds: Mapping[int, float],
    ratios: StartRatios,
    *,
    population: int = 100,
) -> Mapping[str, Any]:
    """Return the settings; 50 parents and 20 elites are common to all six."""
    return MappingProxyType(
        {
            "population": population,
            "generations": 2 * population,
            "parents": 50,
            "elites": 20,
            "mutation": mutation,
            "mutation_kind": "redraw",
            "form": "paper",
            "alpha": 0.9,
            "size_weight": 0.0,
            "gamma": gamma,
            "thresholds": thresholds,
            "start_ratios": ratios,
        }
    )


def _ratios(
    sensitive: tuple[int, ...],
    sensitive_ratios: tuple[float, ...],
    other_ratios: tuple[float, ...],
) -> StartRatios:
    return StartRatios(
        sensitive=sensitive, sensitive_ratios=sensitive_ratios, other_ratios=other_ratios
    )


_TEN_CLASSES = {2: 0.95, 4: 0.95, 8: 0.85, 10: 0.80}
_FIVE_CLASSES = {2: 0.95, 4: 0.90, 5: 0.85}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "simcnn-cifar10": _preset(
            0.05,
            0.90,
            _TEN_CLASSES,
            _ratios((0, 1, 2, 3, 4, 5, 6), (0.6, 0.7, 0.8), (0.4, 0.5, 0.6, 0.7)),
        ),
        "simcnn-svhn": _preset(
            0.10,
            0.95,
            _TEN_CLASSES,
            _ratios((0, 1, 2, 3, 4, 5, 6), (0.4, 0.5, 0.6), (0.1, 0.2, 0.3, 0.4)),
        ),
        "simcnn-svhn-5": _preset(
            0.10,
            0.95,
            _FIVE_CLASSES,
            _ratios((0, 1, 2, 3, 4), (0.4, 0.5, 0.6, 0.7), (0.3, 0.4)),
            population=50,
        ),
        "rescnn-cifar10": _preset(
            0.05,
            0.90,
            _TEN_CLASSES,
            _ratios((0, 1, 3, 4, 5, 7), (0.5, 0.6, 0.7), (0.2, 0.3, 0.4)),
        ),
        "rescnn-svhn": _preset(
            0.10,
            0.90,
            {2: 0.95, 4: 0.95, 8: 0.90, 10: 0.85},
            _ratios((1, 3, 4, 5, 7), (0.3, 0.4, 0.5), (0.2, 0.3)),
        ),
        "rescnn-svhn-5": _preset(
            0.10,
            0.90,
            _FIVE_CLASSES,
            _ratios((4, 5, 7), (0.3, 0.4, 0.5), (0.2, 0.3)),
            population=50,
        ),
    }
)
"""Name to the settings of `GeneticSearch` that the paper used."""
