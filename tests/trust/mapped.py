"""Images by memory map: ``python -m trust.mapped FILE IMAGES CLASSES POPULATION``.

Writes the file, or, where it is, runs a network on its images and searches.

Prints one JSON line: how much the peak memory grew, the mapped pages of the file included.
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import torch
from benchmarks.memory import DrawnScores

from cnnsplitter.classifier import Classifier
from cnnsplitter.data import load_data
from cnnsplitter.importance import measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import Preprocessing
from cnnsplitter.search import GeneticSearch, SearchProblem
from cnnsplitter.splitting import trace


def write(path: Path, images: int, classes: int) -> None:
    """Write noise whose labels go round, without having all of it in memory."""
    names = np.array([f"class{n}" for n in range(classes)])
    pixels = np.lib.format.open_memmap(
        path.with_suffix(".npy"), "w+", np.uint8, (images, 32, 32, 3)
    )
    random = np.random.default_rng(0)
    for start in range(0, images, 1000):
        part = pixels[start : start + 1000]
        part[:] = random.integers(0, 256, part.shape, dtype=np.uint8)
    np.savez(path, x_train=pixels, y_train=np.arange(images) % classes, classes=names)


def work(path: Path, population: int) -> None:
    """Open, split into sets, run a network on every image, measure importance, search."""
    data = load_data(path)
    net, architecture = build_model("lenet5", len(data.classes), data.input_shape)
    plain = Preprocessing((0.5,), (0.25,))
    strong = Classifier(net, data.classes, data.input_shape, plain, architecture)
    channels = trace(strong)
    for part in data.sets:
        predict(strong, part)
    importance = measure_importance(strong, channels, data.train)
    search = GeneticSearch(population=population, parents=2, elites=1, generations=2)
    problem = SearchProblem(
        channels=channels,
        classes=strong.classes,
        importance=importance.scores,
        start_ratios={group.name: (0.4, 0.6, 0.8) for group in channels.groups},
        labels=data.search.labels,
        scorer=DrawnScores(data.search.labels),
    )
    search.run(problem, seed=0)


def peak() -> int:
    """Return the peak memory so far in bytes; Linux gives kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, images, classes, population = Path(sys.argv[1]), *map(int, sys.argv[2:])
    if not path.exists():
        write(path, images, classes)
        sys.exit()
    before = peak()
    work(path, population)
    print(json.dumps({"grown_mb": round((peak() - before) / 1e6), "peak_mb": round(peak() / 1e6)}))
