"""What one generation of the genetic search costs, by the number of classes and of kernels.

A small SimCNN with random weights; as many search images of every class. ``run`` is the processor
seconds of running all candidates, ``tournament`` those of the ensembles, ``peak_gb`` the scores
that are held at once. The powers are the slopes of the logarithms: 1 is in proportion.
"""

import argparse
import json
import math
from functools import partial
from typing import Any

import torch

from benchmarks.plain import simcnn, timed
from cnnsplitter.importance import measure_importance
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search.tournament import Rules, build_ensembles

RULES = Rules({}, least=50, most=500)


def measure(classes: int, options: argparse.Namespace, width: float) -> dict[str, Any]:
    """Return what the parts of one generation cost."""
    strong, channels, data = simcnn(width, classes, classes * options.images_per_class)
    generator = torch.Generator().manual_seed(0)
    keep = torch.stack(
        [channels.random_selection(0.6, generator=generator).keep for _ in range(options.sample)]
    )
    owner = torch.arange(options.sample) % classes
    scorer = CutScorer(strong, channels, data)
    scorer(owner[:1], keep[:1])
    _, _, run = timed(lambda: scorer(owner, keep))
    _, _, importance = timed(lambda: measure_importance(strong, channels, data, confidence=0))
    population = options.population
    scores = torch.randn(classes, population, len(data), generator=generator)
    scores += 2 * (data.labels == torch.arange(classes)[:, None])[:, None]
    build = partial(build_ensembles, scores, data.labels, rules=RULES, keep_first=False)
    _, _, tournament = timed(lambda: build(generator=generator))
    return {
        "classes": classes,
        "kernels": channels.kernel_count,
        "images": len(data),
        "importance": _shown(importance),
        "run": _shown(run / options.sample * classes * population),
        "tournament": _shown(tournament),
        "peak_gb": _shown(scores.nbytes / 1e9),
    }


def _shown(value: float) -> float:
    """Return three digits of a value, which is not 0 however fast the machine is."""
    return float(f"{value:.3g}")


def power(rows: list[dict[str, Any]], of: str, by: str) -> float:
    """Return the slope of the logarithms from the first row to the last."""
    rise = math.log(rows[-1][of] / rows[0][of])
    return round(rise / math.log(rows[-1][by] / rows[0][by]), 2)


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--widths", type=float, nargs="+", default=[0.125, 0.25, 0.5])
    parser.add_argument("--population", type=int, default=20)
    parser.add_argument("--images-per-class", type=int, default=20)
    parser.add_argument("--sample", type=int, default=20, help="candidates that are timed")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    by_classes = [measure(count, options, options.widths[0]) for count in options.classes]
    by_kernels = [measure(options.classes[0], options, width) for width in options.widths]
    powers = {
        "run_by_classes": power(by_classes, "run", "classes"),
        "tournament_by_classes": power(by_classes, "tournament", "classes"),
        "run_by_kernels": power(by_kernels, "run", "kernels"),
    }
    result = {"by_classes": by_classes, "by_kernels": by_kernels, "powers": powers}
    print(json.dumps({**result, "threads": 1}))


if __name__ == "__main__":
    main()
