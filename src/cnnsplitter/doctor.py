"""Before any search: what of a network is selectable, is it exact, and how long will it take."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.cutting import narrow_copy
from cnnsplitter.channels.verify import TOLERANCE
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import UnsupportedModelError
from cnnsplitter.nets import eval_mode
from cnnsplitter.search import GeneticSearch, SearchProblem
from cnnsplitter.sensitivity import RATIOS
from cnnsplitter.splitting import IMPORTANCE_IMAGES, Units, Unknown, trace
from cnnsplitter.surgery import extract, masked_forward

T = TypeVar("T")

SHARES = (0.3, 0.6, 0.9)
"""Shares of the units at which masked and cut network are compared."""
TYPICAL_SHARE = 0.6
"""The estimate takes class modules of this share of the units: the papers' keep about so many."""
SEARCH_IMAGES = 1000
"""The estimate's search images where no data says how many there are."""

_SECONDS_PER_TIMING = 1.0
_TIMINGS = 3
_FEWEST_TIMED = 8
_MOST_TIMED = 256
_MOST_RANKED = 200


@dataclass(frozen=True)
class Check:
    """One comparison of the masked with the cut network on random images.

    Attributes:
        share: Of the units that a random selection keeps.
        kernels: Share of the kernels that are left, frozen ones included.
        error: The largest difference between the outputs as a share of the largest output.
    """

    share: float
    kernels: float
    error: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is rounding."""
        return self.error <= TOLERANCE


@dataclass(frozen=True)
class Estimate:
    """How long a split takes here, in seconds; measured while other programs ran as they did.

    Attributes:
        images: Search images that score each candidate.
        candidates: Class modules that the genetic search cuts and runs at most.
        population: Individuals per class.
        generations: At most.
        full_image: One image through the whole network.
        cut_image: One image through a network cut to ``TYPICAL_SHARE`` of the units.
        cut: Cutting one network.
        tournament: One generation without cutting and running.
        importance: One pass over the training images.
        sensitivity: The curves; 0 where the search needs none.
        search: The genetic search.
    """

    images: int
    candidates: int
    population: int
    generations: int
    full_image: float
    cut_image: float
    cut: float
    tournament: float
    importance: float
    sensitivity: float
    search: float

    @property
    def total(self) -> float:
        """Importance, sensitivity and search together."""
        return self.importance + self.sensitivity + self.search


@dataclass(frozen=True, eq=False)
class Examination:
    """What can be said of a network before a search.

    Attributes:
        channels: Its channel map; what cannot be followed is frozen.
        obstacle: Why a plain ``split`` refuses the network, None if it does not.
        trace_seconds: Time of the trace, its verification included.
        extraction_seconds: Time of one extraction, its trial run included.
        checks: Masked against cut.
        estimate: Of the time of a split; None if there is nothing to select.
    """

    channels: ChannelMap
    obstacle: str | None
    trace_seconds: float
    extraction_seconds: float
    checks: tuple[Check, ...]
    estimate: Estimate | None

    @property
    def selectable(self) -> int:
        """Number of kernels that a selection can drop."""
        return self.channels.selectable_kernels

    def layers(self) -> list[dict[str, Any]]:
        """Return one row per layer: kernels or rows, those selectable, and why others are not."""
        frozen = {f.layer: f for f in self.channels.frozen}
        return [
            {
                "layer": layer.name,
                "kernels": len(layer.units),
                "selectable": int((layer.units >= 0).sum()),
                "units": len(set(layer.units.tolist()) - {-1}),
                "frozen_because": _because(frozen, layer.name),
            }
            for layer in self.channels.layers
        ]

    def ties(self) -> list[dict[str, Any]]:
        """Return one row per group of units whose kernels lie in several layers."""
        counts = self.channels.kernels_per_unit
        return [
            {
                "group": group.name,
                "layers": len(group.layers),
                "units": len(group.units),
                "kernels": int(counts[group.units].sum()),
            }
            for group in self.channels.groups
            if len(group.layers) > 1
        ]

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        estimate = self.estimate
        return {
            "kernels": self.channels.kernel_count,
            "selectable": self.selectable,
            "units": self.channels.unit_count,
            "groups": len(self.channels.groups),
            "obstacle": self.obstacle,
            "layers": self.layers(),
            "ties": self.ties(),
            "frozen": [asdict(f) for f in self.channels.frozen],
            "trace_seconds": self.trace_seconds,
            "extraction_seconds": self.extraction_seconds,
            "checks": [asdict(check) | {"agrees": check.agrees} for check in self.checks],
            "estimate": estimate and asdict(estimate) | {"total": estimate.total},
        }


def _because(frozen: dict[str, Any], name: str) -> str | None:
    if name not in frozen:
        return None
    cause = frozen[name]
    place = "" if cause.module == name else f" (at {cause.module or 'the end'})"
    return f"{cause.reason}{place}"


def examine(
    strong: Classifier,
    *,
    search: GeneticSearch | None = None,
    search_images: int = SEARCH_IMAGES,
    train_images: int = IMPORTANCE_IMAGES,
    units: Units = "conv",
    unknown: Unknown = "error",
    seed: int = 0,
) -> Examination:
    """Trace ``strong``, compare masked with cut, and estimate how long a split will take.

    Args:
        strong: The strong model; left as it was.
        search: The search to estimate; by default the default genetic search.
        search_images: How many images will score each candidate.
        train_images: How many images importance is measured on.
        units: See ``splitting.split``.
        unknown: What the split will be told to do about unknown operators.
        seed: Of the random selections and images.

    Raises:
        UnsupportedModelError: The network cannot be followed even if what is unknown is frozen.
        ModelError: The network does not fit its images, or has no convolution.
    """
    started = time.perf_counter()
    channels, obstacle = _trace(strong, units, unknown)
    traced = time.perf_counter() - started
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, *strong.input_shape, generator=generator)
    x = strong.preprocessing(images).to(strong.example())
    extraction, checks = 0.0, []
    for share in SHARES:
        extraction, check = _check(strong.net, channels, share, x, generator)
        checks.append(check)
    estimate = None
    if channels.unit_count:
        search = search or GeneticSearch()
        estimate = estimate_split(
            strong, channels, search, search_images, train_images, generator=generator
        )
    return Examination(channels, obstacle, traced, extraction, tuple(checks), estimate)


def _trace(strong: Classifier, units: Units, unknown: Unknown) -> tuple[ChannelMap, str | None]:
    try:
        return trace(strong, units=units, unknown=unknown), None
    except UnsupportedModelError as error:
        return trace(strong, units=units, unknown="freeze"), str(error)


def _check(
    net: nn.Module, channels: ChannelMap, share: float, x: Tensor, generator: torch.Generator
) -> tuple[float, Check]:
    """Return the seconds of the extraction, and the comparison."""
    selection = channels.random_selection(share, generator=generator)
    seconds, narrow = _timed(lambda: extract(net, channels, selection))
    with torch.no_grad(), eval_mode(narrow):
        expected = masked_forward(net, channels, selection, x)
        error = (narrow(x) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    kernels = channels.kernels(selection) / channels.kernel_count
    return seconds, Check(share, kernels, error.item())


def estimate_split(
    strong: Classifier,
    channels: ChannelMap,
    search: GeneticSearch,
    search_images: int,
    train_images: int,
    *,
    generator: torch.Generator,
    ratios: int = len(RATIOS),
    patience: float = _SECONDS_PER_TIMING,
) -> Estimate:
    """Time the parts that a split repeats, and add up how long it will take.

    Args:
        strong: The strong model.
        channels: Its channel map, with at least one unit.
        search: The genetic search.
        search_images: How many images will score each candidate.
        train_images: How many images importance is measured on.
        generator: Draws the selections that are timed.
        ratios: How many keep-ratios sensitivity is measured at.
        patience: About the seconds that timing one network may take.
    """
    classes = len(strong.classes)
    keep = channels.random_selection(TYPICAL_SHARE, generator=generator).keep
    cut, narrow = _timed(lambda: narrow_copy(strong.net, channels, keep))
    whole = narrow_copy(strong.net, channels, torch.ones_like(keep))
    full_image = seconds_per_image(whole, strong.input_shape, patience)
    cut_image = seconds_per_image(narrow, strong.input_shape, patience)
    tournament = _generation_seconds(channels, search, classes, search_images, generator)
    fresh = search.population - search.elites
    candidates = classes * (search.population + (search.generations - 1) * fresh)
    points = classes * len(channels.groups) * ratios if search.needs_sensitivity else 0
    return Estimate(
        images=search_images,
        candidates=candidates,
        population=search.population,
        generations=search.generations,
        full_image=full_image,
        cut_image=cut_image,
        cut=cut,
        tournament=tournament,
        importance=min(train_images, IMPORTANCE_IMAGES) * full_image,
        sensitivity=points * (cut + search_images * full_image),
        search=candidates * (cut + search_images * cut_image) + search.generations * tournament,
    )


def seconds_per_image(
    net: nn.Module, shape: tuple[int, int, int], patience: float = _SECONDS_PER_TIMING
) -> float:
    """Time a forward pass in batches as large as the time allows; the layout of ``net`` changes.

    Args:
        net: The network; it runs where its weights are.
        shape: (C, H, W) of one image.
        patience: Seconds that one of three timings may take.
    """
    like, layout = next(net.parameters()), torch.channels_last
    net = net.to(memory_format=layout)

    def seconds(count: int) -> float:
        x = torch.zeros(count, *shape, dtype=like.dtype, device=like.device)
        x = x.contiguous(memory_format=layout)
        with torch.inference_mode(), eval_mode(net):
            # Reading a number waits for the device.
            times = [_timed(lambda: net(x).sum().item())[0] for _ in range(_TIMINGS)]
        return statistics.median(times) / count

    first = seconds(_FEWEST_TIMED)
    return seconds(max(_FEWEST_TIMED, min(_MOST_TIMED, int(patience / first))))


def _generation_seconds(
    channels: ChannelMap,
    search: GeneticSearch,
    classes: int,
    images: int,
    generator: torch.Generator,
) -> float:
    """Time one generation on random scores, as if running candidates took no time."""
    most = min(images, max(_MOST_RANKED, classes))

    def score(owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        return torch.rand(len(owner), most, generator=generator)

    problem = SearchProblem(
        channels=channels,
        classes=tuple(map(str, range(classes))),
        importance=torch.rand(classes, channels.unit_count, generator=generator),
        start_ratios={group.name: (TYPICAL_SHARE,) for group in channels.groups},
        labels=torch.arange(most) % classes,
        scorer=score,
    )
    one = search.model_copy(update={"generations": 1, "early_generations": 0, "early_images": 0})
    seconds, _ = _timed(lambda: one.run(problem, seed=0))
    return seconds * images / most


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result
