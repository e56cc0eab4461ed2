"""Peak memory of a genetic search, with scores drawn at random instead of networks that are run.

``peak_gb`` is that of the whole process, libraries included, ``checkpoint_mb`` the file's size.
"""

import argparse
import json
import resource
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Generator, Tensor

from benchmarks.plain import simcnn
from cnnsplitter.search import GeneticSearch, SearchProblem


@dataclass(eq=False)
class DrawnScores:
    """Scores that favour the right class, drawn anew for every candidate."""

    labels: Tensor
    generator: Generator = field(default_factory=lambda: Generator().manual_seed(0))

    def __call__(self, owner: Tensor, keep: Tensor, images: int | None = None) -> Tensor:
        """Return float32[k, n]."""
        scores = torch.randn(len(owner), len(self.labels), generator=self.generator)[:, :images]
        for row, column in zip(scores, owner.tolist(), strict=True):
            row[self.labels[:images] == column] += 2
        return scores


def main(arguments: list[str] | None = None) -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--population", type=int, default=100)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--generations", type=int, default=3)
    options = parser.parse_args(arguments)
    strong, channels, _ = simcnn(1.0, options.classes, options.classes)
    labels = torch.arange(options.images) % options.classes
    problem = SearchProblem(
        channels=channels,
        classes=strong.classes,
        importance=torch.rand(options.classes, channels.unit_count),
        start_ratios={group.name: (0.4, 0.6, 0.8) for group in channels.groups},
        labels=labels,
        scorer=DrawnScores(labels),
    )
    search = GeneticSearch(
        population=options.population,
        parents=options.population // 2,
        elites=max(1, options.population // 5),
        generations=options.generations,
    )
    with TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "search"
        search.run(problem, seed=0, checkpoint=checkpoint)
        size = checkpoint.stat().st_size
    # Linux gives kilobytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_gb": round(peak / 1e9, 3), "checkpoint_mb": round(size / 1e6, 2)}))


if __name__ == "__main__":
    main()
