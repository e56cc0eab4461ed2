"""The steps of long commands, timed by a few forward passes; the layout of weights may change."""

from collections.abc import Iterable

import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import Splits
from cnnsplitter.doctor import Estimate, estimate_split, seconds_per_image
from cnnsplitter.planning.base import Network
from cnnsplitter.planning.measured import gradient_seconds, gradient_steps
from cnnsplitter.results import Row
from cnnsplitter.search import GeneticSearch, GradientSearch
from cnnsplitter.search.registry import AnySearch
from cnnsplitter.search.tries import BestOfTries
from cnnsplitter.sensitivity import RATIOS
from cnnsplitter.splitting import IMPORTANCE_IMAGES

BACKWARD = 2.0
"""The backward pass of a training step takes about so many times its forward pass."""
_PATIENCE = 0.05


def split_steps(
    strong: Classifier,
    channels: ChannelMap,
    search: AnySearch,
    data: Splits,
    search_images: int,
    *,
    ratios: int = len(RATIOS),
    seed: int = 0,
) -> tuple[Row, ...]:
    """Return the steps of a split, timed by a few forward passes."""
    train = min(len(data.train), IMPORTANCE_IMAGES)
    # Only what one image costs is asked for other searches, so their tournament is the smallest.
    least = GeneticSearch(population=2, parents=2, elites=1, generations=1)
    timed = search if isinstance(search, GeneticSearch) else least
    found = estimate_split(
        strong,
        channels,
        timed,
        search_images,
        train,
        generator=torch.Generator().manual_seed(seed),
        ratios=ratios,
        patience=_PATIENCE,
    )
    steps = []
    if search.needs_importance or search.needs_sensitivity:
        steps.append(step("importance", f"{train:,} images", found.importance))
    if search.needs_sensitivity:
        points = len(strong.classes) * len(channels.groups) * ratios
        steps.append(step("sensitivity", f"{points:,} networks", found.sensitivity))
    if isinstance(search, GradientSearch):
        seconds = gradient_seconds(search, strong, channels, data.train, found)
        work = f"{gradient_steps(search):,} steps of {search.pairs} pairs"
        return (*steps, step("search", work, seconds))
    return (*steps, _search_step(search, found, len(strong.classes)))


def _search_step(search: GeneticSearch | BestOfTries, found: Estimate, classes: int) -> Row:
    images = f"on {found.images:,} images"
    if isinstance(search, GeneticSearch):
        return step("search", f"{found.candidates:,} candidates {images}", found.search)
    count = classes * search.tries
    seconds = count * (found.cut + found.images * found.cut_image)
    return step("search", f"{count:,} candidates {images}", seconds)


def train_step(name: str, model: Classifier, data: Splits, epochs: int) -> Row:
    """Return the step that trains a model, timed by a few forward passes."""
    forward = seconds_per_image(model.net, model.input_shape, _PATIENCE)
    images = len(data.train) * (1 + BACKWARD) + len(data.search)
    return step(f"train {name}", f"{epochs} epochs at most", epochs * images * forward)


def run_step(name: str, models: Iterable[Network], images: int) -> Row:
    """Return the step that runs models on so many images each."""
    each = sum(seconds_per_image(model.net, model.input_shape, _PATIENCE) for model in models)
    return step(name, f"{images:,} images", images * each)


def step(name: str, work: str, seconds: float | None) -> Row:
    """Return a step; ``seconds`` is None where nobody can tell."""
    return {"step": name, "work": work, "seconds": seconds}
