"""Two workers, one thread each, against one worker: Ray actors, and processes of this machine.

Ratios are of the shortest of several runs, taken in turns, so that others' work on the machine
disturbs both alike; ``same`` tells whether all gave the same scores, bit for bit.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import simcnn, timed
from cnnsplitter.engines import Engine, Processes, RayCluster
from cnnsplitter.scoring import CutScorer

ENGINES: dict[str, Callable[[int], Engine]] = {"ray": RayCluster, "processes": Processes}


def measure(
    kind: str, scorer: CutScorer, owner: Tensor, keep: Tensor, repeats: int
) -> tuple[dict[str, Any], Tensor]:
    """Return the ratio for one kind of engine, and the scores."""
    make = ENGINES[kind]
    shortest = {1: float("inf"), 2: float("inf")}
    for _ in range(repeats):
        for workers in shortest:
            with make(workers).spread(scorer) as spread:
                spread(owner[:workers], keep[:workers])  # everything is loaded
                scores, seconds, _ = timed(partial(spread, owner, keep))
            shortest[workers] = min(shortest[workers], seconds)
    ratio = shortest[1] / shortest[2]
    figures = {f"{kind}_ratio": round(ratio, 3), f"{kind}_seconds": round(shortest[2], 2)}
    return figures, scores


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engine", choices=ENGINES, action="append", help="by default all")
    options = parser.parse_args(arguments)
    strong, channels, data = simcnn(options.width, 10, options.images)
    scorer = CutScorer(strong, channels, data)
    generator = torch.Generator().manual_seed(0)
    keep = [
        channels.random_selection(0.6, generator=generator).keep for _ in range(options.candidates)
    ]
    owner, selections = torch.arange(options.candidates) % 10, torch.stack(keep)
    expected = scorer(owner, selections)
    result: dict[str, Any] = {"cores": os.cpu_count(), "same": True}
    for kind in options.engine or ENGINES:
        figures, scores = measure(kind, scorer, owner, selections, options.repeats)
        same = result["same"] and torch.equal(scores, expected)
        result |= {**figures, "same": same}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
