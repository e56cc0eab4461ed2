"""The tournament that builds ensembles of one class module per class (method.md section 2.5).

A composed model answers with the class of highest own-class score, of equal ones the lowest. All
that matters is therefore the order of the candidates on each image, so scores are replaced once by
places (0 is the winner): whole numbers that never tie, and fast to compare.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from cnnsplitter.inference import one_thread

CHUNK_VALUES = 2**22
"""Scores sorted at once; bounds the memory of the sort to about 100 MB."""

BLOCK_PAIRS = 2**18
"""Pairs of ensembles compared at once; small enough to stay in the processor's cache."""


@dataclass(frozen=True)
class Rules:
    """Which ensembles survive a merge.

    Attributes:
        thresholds: Number of classes to the accuracy that ensembles of that size must reach;
            sizes between two listed ones use the smaller one's, those below all use 0.
        least: Ensembles that survive even below the threshold.
        most: Ensembles that survive at most.
    """

    thresholds: Mapping[int, float]
    least: int
    most: int

    def threshold(self, size: int) -> float:
        """Return the accuracy that an ensemble of ``size`` classes must reach."""
        listed = [known for known in self.thresholds if known <= size]
        return self.thresholds[max(listed)] if listed else 0.0


@dataclass(frozen=True, eq=False)
class Ensembles:
    """The surviving ensembles of some classes.

    Attributes:
        classes: bool[classes], the classes involved.
        members: int64[k, classes], the individual of each class; -1 for a class not involved.
        accuracy: float64[k], on the images of the classes involved.
        place: int[n, k], the place of the winning member.
        right: int[n, k], the same where that member is of the image's class, else a place behind
            all others.
    """

    classes: Tensor
    members: Tensor
    accuracy: Tensor
    place: Tensor
    right: Tensor


@dataclass(frozen=True, eq=False)
class TournamentResult:
    """What a tournament finds.

    Attributes:
        individuals: float64[classes, population], the best fitness of a surviving full ensemble
            that contains the individual, else 0.
        champion: int64[classes], the members of the full ensemble of highest fitness.
        accuracy: Its accuracy.
        difference: Its mean of 1 - Jaccard over pairs of members.
        kept: Its mean share of kernels kept.
        fitness: Its fitness.
    """

    individuals: Tensor
    champion: Tensor
    accuracy: float
    difference: float
    kept: float
    fitness: float


Fitness = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(accuracy, difference, kept), each float64[k] -> float64[k], not negative."""


def hold_tournament(
    scores: Tensor,
    labels: Tensor,
    overlap: Tensor,
    kept: Tensor,
    *,
    rules: Rules,
    fitness: Fitness,
    keep_first: bool,
    generator: Generator,
) -> TournamentResult:
    """Build full ensembles and give every individual the fitness of its best one.

    Args:
        scores: float32[classes, population, n], own-class scores.
        labels: int64[n].
        overlap: float64[classes * population, classes * population], see `objective.jaccard`.
        kept: float64[classes, population], share of kernels kept.
        rules: Who survives.
        fitness: Of full ensembles.
        keep_first: Whether the first individuals of all classes, last generation's champion, stay
            together in every merge.
        generator: Shuffles the classes, and pairs of equal accuracy.
    """
    full = build_ensembles(scores, labels, rules=rules, keep_first=keep_first, generator=generator)
    difference = _difference(full.members, overlap)
    share = kept.gather(1, full.members.T).mean(dim=0)
    value = fitness(full.accuracy, difference, share)
    individuals = torch.zeros_like(kept).scatter_reduce(
        1, full.members.T, value.expand(len(kept), -1), "amax"
    )
    best = int(value.argmax())
    return TournamentResult(
        individuals,
        full.members[best],
        full.accuracy[best].item(),
        difference[best].item(),
        share[best].item(),
        value[best].item(),
    )


def build_ensembles(
    scores: Tensor, labels: Tensor, *, rules: Rules, keep_first: bool, generator: Generator
) -> Ensembles:
    """Shuffle the classes and merge them two by two, an odd one waiting, until one team is left.

    Args: see `hold_tournament`.

    Returns:
        The surviving ensembles of all classes. Of a single class they are its candidates, whose
        scores are margins.
    """
    # the operations are so short that threads would wait for each other most of the time
    with one_thread():
        places = rank_candidates(scores)
        if len(scores) == 1:
            accuracy = (scores[0] > 0).double().mean(dim=1)
            return replace(_start_team(0, 1, places, labels), accuracy=accuracy)
        owners = torch.randperm(len(scores), generator=generator).tolist()

        def unite(some: list[int]) -> Ensembles:
            if len(some) == 1:
                return _start_team(some[0], len(scores), places, labels)
            # One branch after the other: all teams of a level at once need gigabytes.
            half = 1 << (len(some) - 1).bit_length() - 1
            left, right = unite(some[:half]), unite(some[half:])
            return _merge(left, right, labels, rules, keep_first, generator)

        return unite(owners)


def rank_candidates(scores: Tensor) -> Tensor:
    """Return the place of every candidate on every image; of equal scores the lower class is first.

    Args:
        scores: float32[classes, population, n].

    Returns:
        int16 or int32[n, classes, population]; 0 is the highest score.
    """
    classes, population, _ = scores.shape
    count = classes * population
    dtype = torch.int16 if count < torch.iinfo(torch.int16).max else torch.int32
    numbers = torch.arange(count, dtype=dtype)
    parts = []
    for part in torch.split(scores.flatten(0, 1).T, max(1, CHUNK_VALUES // count)):
        order = part.contiguous().argsort(dim=1, descending=True, stable=True)
        place = torch.empty(part.shape, dtype=dtype)
        parts.append(place.scatter_(1, order, numbers.expand_as(order)))
    return torch.cat(parts).view(-1, classes, population)


def _start_team(owner: int, classes: int, places: Tensor, labels: Tensor) -> Ensembles:
    place = places[:, owner]
    population = place.shape[1]
    members = torch.full((population, classes), -1)
    members[:, owner] = torch.arange(population)
    last = torch.iinfo(place.dtype).max
    right = place.masked_fill((labels != owner)[:, None], last)
    involved = torch.arange(classes) == owner
    return Ensembles(involved, members, torch.ones(population, dtype=torch.float64), place, right)


def _merge(
    left: Ensembles,
    right: Ensembles,
    labels: Tensor,
    rules: Rules,
    keep_first: bool,
    generator: Generator,
) -> Ensembles:
    involved = left.classes | right.classes
    hits = _count_ahead(left.right, right.place) + _count_ahead(right.right, left.place).T
    accuracy = (hits.double() / involved[labels].sum().clamp(min=1)).flatten()
    chosen = _choose(accuracy, rules, int(involved.sum()), keep_first, generator)
    a, b = chosen // hits.shape[1], chosen % hits.shape[1]
    place = torch.minimum(_columns(left.place, a), _columns(right.place, b))
    own = torch.minimum(_columns(left.right, a), _columns(right.right, b))
    return Ensembles(
        involved,
        torch.maximum(left.members[a], right.members[b]),
        accuracy[chosen],
        place,
        own.masked_fill_(own > place, torch.iinfo(own.dtype).max),
    )


def _columns(values: Tensor, chosen: Tensor) -> Tensor:
    # four times as fast as values[:, chosen]
    return values.gather(1, chosen.expand(len(values), -1))


def _choose(
    accuracy: Tensor, rules: Rules, size: int, keep_first: bool, generator: Generator
) -> Tensor:
    """Return the pairs that survive, best first; pair 0 leads if ``keep_first``.

    On few images many pairs tie. Chance decides between them: an order by number would let only
    partners of the first candidates live.
    """
    ranked = accuracy.clone()
    if keep_first:
        ranked[0] = torch.inf
    passed = int((ranked >= rules.threshold(size)).sum())
    count = min(max(passed, rules.least), rules.most)
    shuffled = torch.randperm(len(ranked), generator=generator)
    return shuffled[ranked[shuffled].argsort(descending=True, stable=True)[:count]]


def _count_ahead(mine: Tensor, theirs: Tensor) -> Tensor:
    """Return int64[a, b]: the images on which ``mine`` int[n, a] leads ``theirs`` int[n, b]."""
    always = mine.amax(dim=1) < theirs.amin(dim=1)
    never = mine.amin(dim=1) > theirs.amax(dim=1)
    # most images are decided alike for all pairs, so only the others are compared pair by pair
    open_rows = ~(always | never)
    mine, theirs = mine[open_rows], theirs[open_rows]
    width = max(1, BLOCK_PAIRS // theirs.shape[1])
    counts = [_count_open(block, theirs) for block in torch.split(mine, width, dim=1)]
    return torch.cat(counts) + always.sum()


def _count_open(mine: Tensor, theirs: Tensor) -> Tensor:
    info = torch.iinfo(mine.dtype)
    counts = torch.zeros(mine.shape[1], theirs.shape[1], dtype=torch.int64)
    gap = torch.empty(counts.shape, dtype=mine.dtype)
    # the arithmetic shift leaves -1 where mine is ahead and 0 elsewhere; int16 sums of it hold up
    # to 32,767 images, and unlike comparisons these operations use the processor's vector units
    limit = torch.iinfo(torch.int16).max
    for start in range(0, len(mine), limit):
        ahead = torch.zeros_like(gap)
        for row in range(start, min(start + limit, len(mine))):
            torch.sub(mine[row][:, None], theirs[row], out=gap)
            ahead -= gap.bitwise_right_shift_(info.bits - 1)
        counts += ahead
    return counts


def _difference(members: Tensor, overlap: Tensor) -> Tensor:
    """Return float64[k]: the mean of 1 - Jaccard over the pairs of members; 0 of single ones."""
    classes = members.shape[1]
    population = len(overlap) // classes
    rows = members + torch.arange(classes) * population
    total = torch.zeros(len(members), dtype=torch.float64)
    pairs = torch.combinations(torch.arange(classes))
    for a, b in pairs.tolist():
        total += overlap[rows[:, a], rows[:, b]]
    return 1 - total / len(pairs) if len(pairs) else total
