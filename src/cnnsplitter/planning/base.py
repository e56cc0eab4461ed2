"""The plan of a long command, and the rows that describe images, networks and layers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import Splits
from cnnsplitter.results import Row
from cnnsplitter.search import GeneticSearch
from cnnsplitter.search.genes import GeneMap
from cnnsplitter.search.registry import AnySearch

Network = Classifier | ClassModule


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes:
        images: One row per data set: how many images serve what.
        networks: One row per network: what it costs.
        layers: One row per layer of the search: kernels, units and, for a genetic one, genes;
            empty without search.
        steps: One row per step with its ``seconds``, None where nobody can tell.
        memory: Bytes that the program will need at its peak, roughly.
        writes: What is written.
    """

    images: tuple[Row, ...]
    networks: tuple[Row, ...]
    layers: tuple[Row, ...]
    steps: tuple[Row, ...]
    memory: int
    writes: tuple[Path, ...]

    @property
    def seconds(self) -> float:
        """Of all steps that can be told."""
        return sum(float(step["seconds"] or 0) for step in self.steps)

    @property
    def units(self) -> int:
        """What each class module keeps or drops."""
        return sum(int(layer["units"] or 0) for layer in self.layers)

    @property
    def genes(self) -> int | None:
        """Of one individual of a genetic search; None for other searches."""
        genes = [int(layer["genes"] or 0) for layer in self.layers if "genes" in layer]
        return sum(genes) if genes else None

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "images": list(self.images),
            "networks": list(self.networks),
            "layers": list(self.layers),
            "units": self.units,
            "genes": self.genes,
            "steps": list(self.steps),
            "seconds": self.seconds,
            "memory": self.memory,
            "writes": [str(path) for path in self.writes],
        }


def image_row(use: str, data: Splits) -> Row:
    """Return how many images of a data set serve what."""
    channels, height, width = data.input_shape
    parts = ("train", "search", "calibration", "test")
    return {
        "images of": use,
        "classes": len(data.classes),
        "size": f"{channels}x{height}x{width}",
        **{name: len(part) for name, part in zip(parts, data.sets, strict=True)},
    }


def network_row(name: str, model: Network) -> Row:
    """Return what a network costs."""
    cost = vars(measure_cost(model, model.input_shape))
    kind = type(model.net).__name__
    figures = ("kernels", "parameters", "multiply_adds")
    return {"network": name, "kind": kind, **{key: cost[key] for key in figures}}


def layer_rows(channels: ChannelMap, search: AnySearch) -> tuple[Row, ...]:
    """Return kernels and units of every layer of a search, and genes where it has some."""
    counts = channels.kernels_per_unit
    rows: list[Row] = [
        {
            "layer": group.name,
            "kernels": int(counts[group.units].sum()),
            "units": len(group.units),
        }
        for group in channels.groups
    ]
    if not isinstance(search, GeneticSearch):
        return tuple(rows)
    genes = GeneMap.build(channels.groups, torch.zeros(1, channels.unit_count)).sizes
    return tuple({**row, "genes": genes[str(row["layer"])]} for row in rows)
