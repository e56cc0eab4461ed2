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
from cnnsplitter.search.genes import GeneMap

Network = Classifier | ClassModule


@dataclass(frozen=True)
class Plan:
    """What a command would do.

    Attributes:
        images: One row per data set: how many images serve what.
        networks: One row per network: what it costs.
        layers: One row per layer of the search: kernels, units and genes; empty without search.
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
    def genes(self) -> int:
        """Of one individual."""
        return sum(int(layer["genes"] or 0) for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "images": list(self.images),
            "networks": list(self.networks),
            "layers": list(self.layers),
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


def layer_rows(channels: ChannelMap, classes: int) -> tuple[Row, ...]:
    """Return kernels, units and genes of every layer of a search."""
    genes = GeneMap.build(channels.groups, torch.zeros(classes, channels.unit_count)).sizes
    counts = channels.kernels_per_unit
    return tuple(
        {
            "layer": group.name,
            "kernels": int(counts[group.units].sum()),
            "units": len(group.units),
            "genes": genes[group.name],
        }
        for group in channels.groups
    )
