"""One generation of the genetic search against a plain reference: scores step and tournament.

``scores_ratio_bfloat16`` is that of an early generation, which runs in bfloat16 where the processor
computes in it (``native_bfloat16``).

``cut_over_masks`` is how many times slower the same candidates are as masks on the whole network,
several of them in each batch, than cut.

The reference extracts every candidate of the generation, elites too, runs it in float32 as it is,
on as many threads as this program has, and scores every ensemble by an argmax over the concatenated
scores of its class modules. ``*_cpu`` are ratios of processor time, which others' work on the
machine disturbs less, but which leave out that candidates run side by side.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.plain import simcnn, timed
from cnnsplitter.channels import ChannelMap
from cnnsplitter.channels.masking import masked
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet
from cnnsplitter.inference import native_bfloat16
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import GeneticSearch
from cnnsplitter.search.tournament import Rules, build_ensembles
from cnnsplitter.selection import Selection
from cnnsplitter.surgery import extract

RULES = Rules({}, least=50, most=500)


def plain_scores(
    strong: Classifier, channels: ChannelMap, data: ImageSet, owner: Tensor, keep: Tensor
) -> Tensor:
    """Return float32[k, n]: each candidate extracted and run on batches of 256 images."""
    rows = []
    for column, units in zip(owner.tolist(), keep, strict=True):
        narrow = extract(strong.net, channels, Selection(units, channels.fingerprint)).eval()
        with torch.no_grad():
            batches = [narrow(strong.preprocessing(x))[:, column] for x, _ in data.batches(256)]
        rows.append(torch.cat(batches))
    return torch.stack(rows)


def masked_scores(
    strong: Classifier, channels: ChannelMap, data: ImageSet, owner: Tensor, keep: Tensor
) -> Tensor:
    """Return float32[k, n]: all candidates of an image in one batch, as masks."""
    pixels, rows = data.images.read(data.rows), []
    with torch.no_grad():
        for image in strong.preprocessing(pixels):
            batch = image.expand(len(keep), *image.shape)
            with masked(strong.net, channels, keep.to(batch)):
                rows.append(strong.net(batch).gather(1, owner[:, None])[:, 0])
    return torch.stack(rows, dim=1)


def plain_accuracy(scores: Tensor, labels: Tensor, members: Tensor) -> float:
    """Return the accuracy of an ensemble: members int64[classes], -1 where a class has none."""
    involved = (members >= 0).nonzero().flatten()
    here = torch.isin(labels, involved)
    stacked = torch.stack([scores[c, members[c]] for c in involved.tolist()])
    return (involved[stacked[:, here].argmax(0)] == labels[here]).double().mean().item()


def plain_tournament(scores: Tensor, labels: Tensor, rules: Rules, generator: Generator) -> Tensor:
    """Return the surviving full ensembles int64[k, classes], best first."""
    classes, population, _ = scores.shape
    teams = []
    for owner in torch.randperm(classes, generator=generator).tolist():
        members = torch.full((population, classes), -1)
        members[:, owner] = torch.arange(population)
        teams.append(members)

    def unite(some: list[Tensor]) -> Tensor:
        if len(some) == 1:
            return some[0]
        half = max(2**power for power in range(len(some)) if 2**power < len(some))
        left, right = unite(some[:half]), unite(some[half:])
        pairs = torch.cat([torch.maximum(a, right) for a in left])
        accuracy = torch.tensor([plain_accuracy(scores, labels, pair) for pair in pairs])
        passed = int((accuracy >= rules.threshold(int((pairs[0] >= 0).sum()))).sum())
        order = torch.randperm(len(pairs), generator=generator)
        best = order[accuracy[order].argsort(descending=True, stable=True)]
        return pairs[best[: min(max(passed, rules.least), rules.most)]]

    return unite(teams)


def merges(classes: int, population: int, most: int) -> list[tuple[int, int]]:
    """Return (pairs, classes involved) of every merge of a tournament in which all may survive."""
    teams, found = [(1, population)] * classes, []
    while len(teams) > 1:
        merged = []
        for (size, count), (other, partners) in zip(teams[::2], teams[1::2], strict=False):
            found.append((count * partners, size + other))
            merged.append((size + other, min(count * partners, most)))
        teams = merged + (teams[-1:] if len(teams) % 2 else [])
    return found


def scores_step(options: argparse.Namespace) -> dict[str, Any]:
    """Time one generation's scores step, and see whether both ways choose the same ensembles."""
    strong, channels, data = simcnn(options.width, options.classes, options.images)
    settings = GeneticSearch(population=options.population, parents=10, elites=4)
    every = options.classes * options.population
    fresh = options.classes * (options.population - settings.elites)
    generator = torch.Generator().manual_seed(1)
    share = options.kept
    keep = torch.stack(
        [channels.random_selection(share, generator=generator).keep for _ in range(every)]
    )
    owner = torch.arange(every) // options.population
    # spread over the classes, so that the winners are chosen among whole, smaller populations
    sample = torch.arange(every)[torch.arange(every) % options.population < options.sample]
    owner, keep = owner[sample], keep[sample]
    scorer = CutScorer(strong, channels, data)
    scorer(owner[:2], keep[:2])  # both ways find the processor awake
    fast, seconds, cpu = timed(lambda: scorer(owner, keep))
    rough = replace(scorer, early_precision="bfloat16")
    _, rough_seconds, rough_cpu = timed(lambda: rough(owner, keep, len(data)))
    plain, plain_seconds, plain_cpu = timed(
        lambda: plain_scores(strong, channels, data, owner, keep)
    )
    few = torch.arange(0, len(owner), max(1, len(owner) // 20))
    some = data.take(torch.arange(min(32, len(data))))
    *_, mask_cpu = timed(lambda: masked_scores(strong, channels, some, owner[few], keep[few]))
    masks = mask_cpu / (len(few) * len(some))
    saved = every / fresh
    winners = [
        choose(scores.view(options.classes, -1, len(data)), data.labels)
        for choose, scores in ((_fast_winners, fast), (_plain_winners, plain))
    ]
    return {
        "scores_ratio": round(saved * plain_seconds / seconds, 2),
        "scores_ratio_cpu": round(saved * plain_cpu / cpu, 2),
        "same_candidates_ratio": round(plain_seconds / seconds, 2),
        "scores_ratio_bfloat16": round(saved * plain_seconds / rough_seconds, 2),
        "scores_ratio_bfloat16_cpu": round(saved * plain_cpu / rough_cpu, 2),
        "native_bfloat16": native_bfloat16(torch.device("cpu")),
        "cut_over_masks": round(masks / (cpu / (len(owner) * len(data))), 2),
        "candidates": {"plain": every, "run": fresh, "timed": len(owner)},
        "same_winners": torch.equal(*winners),
    }


def _fast_winners(scores: Tensor, labels: Tensor) -> Tensor:
    rules, generator = Rules({}, 20, 20), torch.Generator().manual_seed(2)
    return build_ensembles(
        scores, labels, rules=rules, keep_first=False, generator=generator
    ).members


def _plain_winners(scores: Tensor, labels: Tensor) -> Tensor:
    return plain_tournament(scores, labels, Rules({}, 20, 20), torch.Generator().manual_seed(2))


def tournament(options: argparse.Namespace) -> dict[str, Any]:
    """Time a tournament; of the reference, some pairs of each merge."""
    classes, population, images = 10, options.tournament_population, options.tournament_images
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(images) % classes
    scores = torch.randn(classes, population, images, generator=generator)
    scores += 2 * (labels == torch.arange(classes)[:, None])[:, None]
    build = partial(build_ensembles, scores, labels, rules=RULES, keep_first=False)
    _, seconds, cpu = timed(lambda: build(generator=torch.Generator().manual_seed(4)))
    plain = plain_cpu = 0.0
    for pairs, size in merges(classes, population, RULES.most):
        members = torch.full((options.pairs, classes), -1)
        members[:, :size] = torch.randint(population, (options.pairs, size), generator=generator)
        run = partial(_accuracies, scores, labels, members)
        _, wall, used = timed(run)
        plain += wall / options.pairs * pairs
        plain_cpu += used / options.pairs * pairs
    return {
        "tournament_ratio": round(plain / seconds, 1),
        "tournament_ratio_cpu": round(plain_cpu / cpu, 1),
        "tournament_seconds": round(seconds, 2),
    }


def _accuracies(scores: Tensor, labels: Tensor, members: Tensor) -> list[float]:
    return [plain_accuracy(scores, labels, row) for row in members]


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--kept", type=float, default=0.6, help="share of units a candidate keeps")
    parser.add_argument("--sample", type=int, default=20, help="candidates of each class timed")
    parser.add_argument("--tournament-population", type=int, default=100)
    parser.add_argument("--tournament-images", type=int, default=10_000)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of each merge timed plainly")
    options = parser.parse_args(arguments)
    result = scores_step(options) | tournament(options)
    print(json.dumps({**result, "threads": torch.get_num_threads()}))


if __name__ == "__main__":
    main()
