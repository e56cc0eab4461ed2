"""Every reader of files that may come from strangers, with a small good file for each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import pages
import toys
from cnnsplitter.calibration import RangeCalibration
from cnnsplitter.class_modules import compose
from cnnsplitter.data import load_data, load_npz
from cnnsplitter.hub import load_folder, save_folder
from cnnsplitter.importance import Importance, uniform_importance
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.recipes import load_recipe
from cnnsplitter.report import read_report
from cnnsplitter.results import read_json
from cnnsplitter.run_folder import claim_folder
from cnnsplitter.search import GeneticSearch, GradientSearch, SearchProblem
from cnnsplitter.sensitivity import Sensitivity
from cnnsplitter.storage.saving import load, save
from cnnsplitter.subtasks.networks import unite
from cnnsplitter.training import Training, train
from cnnsplitter.weights import load_weights
from contracts import ToyChannels, planted_problem
from planted_gradients import with_gradients
from trust.own_loaders import OWN


@dataclass(frozen=True)
class Loader:
    """One kind of file.

    Attributes:
        name: Of the file.
        make: Writes a good one.
        read: Reads it as the package does.
    """

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], Any]


@cache
def _strong() -> Any:
    return toys.classifier()


def _module() -> Any:
    return toys.class_module(_strong())


def _patched() -> PatchedModel:
    patch = Patch("dog", _module(), RangeCalibration("min-max", 0.0, 1.0))
    return PatchedModel(toys.classifier("lenet5"), [patch])


@cache
def _problem() -> SearchProblem:
    return with_gradients(planted_problem(ToyChannels((4, 4)), classes=3, images=12))


def _genetic(path: Path, generations: int = 1) -> Any:
    sizes = {"population": 4, "parents": 2, "elites": 1, "generations": generations}
    search = GeneticSearch.model_validate(sizes)
    return search.run(_problem(), seed=0, checkpoint=path)


def _gradient(path: Path, rounds: int = 1) -> Any:
    search = GradientSearch(keep=0.5, rounds=rounds, steps=2, anneal=1)
    return search.run(_problem(), seed=0, checkpoint=path)


def _train(path: Path, epochs: int = 1) -> Any:
    settings = Training(epochs=epochs, batch_size=8, schedule="constant")
    return train(_strong(), toys.image_set(12), None, settings, seed=0, checkpoint=path)


def _npz(path: Path, write: Callable[..., None] = np.savez, **changes: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    arrays = {"x_train": pixels, "y_train": np.arange(6) % 3, "classes": np.array(["a", "b", "c"])}
    write(path, **{**arrays, **changes})


def _photo(path: Path) -> None:
    """A folder of two classes; the one of the file at stake has another, good image."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for place in (
        path,
        path.with_name(f"good{path.suffix}"),
        path.parent.parent / "other" / "b.png",
    ):
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(noise).save(place)


def _read_photo(path: Path) -> Any:
    """Open the folder above the class; broken files are left out, what breaks later is named."""
    data = load_data(path.parent.parent, size=8)
    for part in data.sets:
        if len(part):
            part.images.read(part.rows)
    return data


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


def _json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def _write_report(path: Path) -> None:
    _json(path, pages.facts("cat").model_dump(mode="json"))


RECIPE = """title = "t"
[strong_data]
source = "digits"
[weak_data]
source = "digits"
[strong]
model = "lenet5"
[weak]
model = "lenet5"
[patch]
targets = ["8"]
"""


def _recipe(path: Path) -> None:
    path.write_text(RECIPE)


LOADERS = {
    "classifier": Loader("a.safetensors", lambda p: save(_strong(), p), load),
    "class module": Loader("a.safetensors", lambda p: save(_module(), p), load),
    "subtask": Loader(
        "a.safetensors",
        lambda p: save(unite(_strong(), [_module(), toys.class_module(_strong(), "dog")]), p),
        load,
    ),
    "composed": Loader("a.safetensors", lambda p: save(compose([_module()]), p), load),
    "patched": Loader("a.safetensors", lambda p: save(_patched(), p), load),
    "hub folder": Loader(
        "model.safetensors",
        lambda p: save_folder(_module(), p.parent, overwrite=True),
        lambda p: load_folder(p.parent),
    ),
    "genetic checkpoint": Loader("a", _genetic, lambda p: _genetic(p, 2)),
    "gradient checkpoint": Loader("a", _gradient, lambda p: _gradient(p, 2)),
    "training checkpoint": Loader("a", _train, lambda p: _train(p, 1)),
    "importance": Loader(
        "a",
        lambda p: uniform_importance(toys.traced(_strong()), 3).save(p),
        lambda p: Importance.load(p, toys.traced(_strong())),
    ),
    "weights": Loader(
        "a.safetensors",
        lambda p: save_file(_net().state_dict(), p),
        lambda p: load_weights(_net(), p),
    ),
    "pickled weights": Loader(
        "a.pt", lambda p: torch.save(_net().state_dict(), p), lambda p: load_weights(_net(), p)
    ),
    "old pickled weights": Loader(
        "a.pt",
        lambda p: torch.save(_net().state_dict(), p, _use_new_zipfile_serialization=False),
        lambda p: load_weights(_net(), p),
    ),
    "npz": Loader("a.npz", _npz, load_npz),
    "compressed npz": Loader("a.npz", lambda p: _npz(p, np.savez_compressed), load_npz),
    "png": Loader("a.png", _photo, _read_photo),
    "jpeg": Loader("a.jpg", _photo, _read_photo),
    "recipe": Loader("a.toml", _recipe, lambda p: load_recipe(str(p))),
    "curves": Loader(
        "a.json",
        lambda p: _json(p, {"ratios": [0.5, 1.0], "accuracy": {"conv": [0.5, 0.9]}}),
        lambda p: Sensitivity.from_json(read_json(p)),
    ),
    "report": Loader("report.json", _write_report, read_report),
    "run folder": Loader(
        "recipe.json",
        lambda p: _json(p, {"title": "t"}),
        lambda p: claim_folder(p.parent, {"title": "t"}),
    ),
    **{name: Loader(*parts) for name, parts in OWN.items()},
}


def fresh(name: str, folder: Path) -> Path:
    """Write the good file of a loader into a class folder of its own and return its path."""
    place = folder / name.replace(" ", "-") / "class"
    place.mkdir(parents=True)
    path = place / LOADERS[name].name
    LOADERS[name].make(path)
    return path
