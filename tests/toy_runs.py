"""Whole runs at toy size, on generated images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnsplitter.pipeline import Run
from cnnsplitter.recipes import Recipe, SearchSettings, load_recipe
from cnnsplitter.results import read_json

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR100 = ["apple", "baby", "bed", "bicycle", "bottle", "bridge", "camel", "clock", "rose", "bear"]
DIGITS = [str(digit) for digit in range(10)]
SETS = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": DIGITS}
TRAIN, TEST = 20, 4


def images_of(classes: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] with a pattern per class under noise, and labels [N]."""
    labels = np.arange(classes * each) % classes
    patterns = np.random.default_rng(0).integers(0, 200, (classes, 4, 4, 3))
    noise = np.random.default_rng(seed).integers(0, 56, (len(labels), 32, 32, 3))
    patterns = patterns.repeat(8, axis=1).repeat(8, axis=2)
    return (patterns[labels] + noise).astype(np.uint8), labels


def toy(name: str, **changes: Any) -> Recipe:
    sizes = {"width": 0.06, "epochs": 2, "population": 4, "generations": 2, "search_images": 20}
    return load_recipe(name).adapted(**sizes | changes)


def small(**changes: Any) -> Recipe:
    """The quickest recipe: digits 0-4, five classes."""
    recipe = toy("rescnn-svhn-5", **changes)
    return recipe.model_copy(
        update={"strong": recipe.strong.model_copy(update={"model": "weak-rescnn", "width": 0.25})}
        | {
            "search": SearchSettings(ratios=(0.2, 0.4, 0.6, 0.8)).adapted(
                population=4, generations=3
            )
        }
    )


def finish(run: Run) -> dict[str, Any]:
    run.check()
    run.prepare()
    return run.report().model_dump(mode="json")


def contents(folder: Path) -> Mapping[str, bytes]:
    """All files but the report, which holds measured times."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stem != "report")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def untimed(folder: Path) -> dict[str, Any]:
    """The report without what the clock says."""
    report: dict[str, Any] = read_json(folder / "report.json")
    for row in report["costs"]:
        assert row.pop("latency_ms") > 0
    return report
