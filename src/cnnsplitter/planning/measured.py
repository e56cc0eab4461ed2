"""What is timed by doing a little of it: steps of the gradient search, and fits of patches."""

import time
from collections.abc import Callable, Mapping

import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.doctor import Estimate, Examination
from cnnsplitter.errors import DataError, ModelError
from cnnsplitter.masked_scoring import MaskedImages
from cnnsplitter.patches.combining import Layout, Observations
from cnnsplitter.patches.fitting import Fitting, fit
from cnnsplitter.patches.guard import verdicts_of
from cnnsplitter.search import GradientSearch
from cnnsplitter.search.registry import default_search
from cnnsplitter.splitting import GRADIENT_IMAGES, limited

_MOST_FITTED = 500


def gradient_steps(search: GradientSearch) -> int:
    """Return how many forward and backward passes a search makes at most."""
    start = -(-search.start_pairs // search.pairs) if search.start == "taylor" else 0
    return search.rounds * search.steps + start


def gradient_seconds(
    search: GradientSearch,
    strong: Classifier,
    channels: ChannelMap,
    train: ImageSet,
    found: Estimate,
) -> float:
    """Return how long a gradient search takes, by the time of one step.

    Args:
        search: The search.
        strong: The strong model.
        channels: Its channel map.
        train: The images that the search learns from.
        found: What cutting and running networks takes.
    """
    classes = len(strong.classes)
    logits = min(len(train), GRADIENT_IMAGES) * found.full_image
    scores = search.rounds * classes * (found.cut + found.images * found.cut_image)
    return logits + gradient_steps(search) * _step(search, strong, channels, train) + scores


def default_seconds(
    strong: Classifier, examined: Examination, train: ImageSet | None
) -> float | None:
    """Return how long a split takes if no search is named.

    Args:
        strong: The strong model.
        examined: What ``doctor.examine`` found.
        train: Images to learn from; by default as many as the search uses, drawn at random.

    Returns:
        Seconds; None where nothing can be selected, or no gradient flows.
    """
    if examined.estimate is None:
        return None
    search, few = default_search(), train or _drawn(strong)
    try:
        return gradient_seconds(search, strong, examined.channels, few, examined.estimate)
    except ModelError:
        return None


def _drawn(strong: Classifier) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, *strong.input_shape), generator=generator)
    labels = torch.arange(len(pixels)) % len(strong.classes)
    drawn = ImageSet.from_arrays(pixels.to(torch.uint8), labels, strong.classes, "random images")
    return drawn.take(torch.arange(GRADIENT_IMAGES) % len(pixels))


def _step(
    search: GradientSearch, strong: Classifier, channels: ChannelMap, train: ImageSet
) -> float:
    """Return the seconds of one step, by steps of half as many pairs."""
    each = 1 + min(search.hard + search.chance, len(strong.classes) - 1)
    few = train.take(torch.arange(min(len(train), max(1, search.pairs // each // 2))))
    images = torch.arange(len(few)).repeat_interleave(each)
    masked, owner = MaskedImages(strong, channels, few), torch.zeros_like(images)

    def step() -> None:
        masks = torch.ones(len(images), channels.unit_count, requires_grad=True)
        with torch.enable_grad():
            torch.autograd.grad(masked(images, owner, masks).sum(), masks)

    return min(_seconds(step), _seconds(step)) * search.pairs / len(images)


def fitting_seconds(
    weak: Classifier, modules: Mapping[str, ClassModule], calibration: ImageSet, fitting: Fitting
) -> float | None:
    """Return how long fitting and judging patches takes, by doing it on random scores.

    Returns:
        Seconds; None where so few images cannot be fitted on.
    """
    some = limited(calibration, _MOST_FITTED, 0)
    generator = torch.Generator().manual_seed(0)
    logits, scores = (
        torch.randn(len(some), count, generator=generator, dtype=torch.float64)
        for count in (len(weak.classes), len(modules))
    )
    layout = Layout.of(some.classes, weak.classes, modules)
    seen = Observations(logits, scores, some.labels, layout)
    try:
        once = _seconds(lambda: (verdicts_of(fitting, seen), fit(fitting, seen)))
    except DataError:
        return None
    return once * len(calibration) / max(1, len(some))


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
