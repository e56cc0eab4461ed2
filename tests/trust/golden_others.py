"""Writes a golden file of every kind that is no model, and what it gives when it is read.

``python -m trust.golden_others``: run it when ``FORMAT`` changes, like ``trust.golden``; what older
versions wrote stays, and goes on being read.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pages
import toys
from cnnsplitter.classifier import Classifier
from cnnsplitter.commands.fronts import _figures
from cnnsplitter.exporting import describe_export, export
from cnnsplitter.files import FORMAT
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.recipes import load_recipe
from cnnsplitter.report import read_report
from cnnsplitter.results import read_json, write_json
from cnnsplitter.run_list import find_runs
from cnnsplitter.search import GeneticSearch, GradientSearch, RandomSearch, ThresholdSearch
from cnnsplitter.sensitivity import Sensitivity
from cnnsplitter.storage.saving import load_as, save
from cnnsplitter.training import Training, train
from contracts import ToyChannels, planted_problem
from planted_gradients import with_gradients
from trust.golden import FOLDER

HERE = FOLDER / f"format-{FORMAT}" / "others"
EXPECTED = "expected.json"
START = "start.safetensors"
"""What training begins with."""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        write: Writes one to a path.
        read: Reads it as the package does and returns what it says as JSON values.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]


def _strong() -> Classifier:
    """A model whose weights do not depend on how a network is begun."""
    return load_as(Classifier, FOLDER / "format-1" / "classifier.safetensors")


def _read_importance(path: Path) -> Any:
    found = Importance.load(path, toys.traced(_strong()))
    return {name: getattr(found, name).tolist() for name in ("scores", "samples", "confident")}


SEARCHES: dict[str, Callable[[int], Any]] = {
    "genetic": lambda steps: GeneticSearch.model_validate(
        {"population": 4, "parents": 2, "elites": 1, "generations": steps}
    ),
    "gradient": lambda steps: GradientSearch(keep=0.5, rounds=steps, steps=2, anneal=1),
    "importance": lambda steps: ThresholdSearch(tries=steps),
    "random": lambda steps: RandomSearch(tries=steps),
}


def searched(name: str, path: Path, steps: int = 2) -> Any:
    """Search for so many steps, going on from the file if it is there."""
    problem = with_gradients(planted_problem(ToyChannels((4, 4)), classes=3, images=12))
    found = SEARCHES[name](steps).run(problem, seed=0, checkpoint=path)
    return {
        "selections": found.selections.int().tolist(),
        "history": [asdict(entry) for entry in found.history],
    }


def _search(name: str) -> Kind:
    return Kind(lambda path: searched(name, path), lambda path: searched(name, path))


def _start(path: Path) -> Classifier:
    return load_as(Classifier, path.with_name(START))


def trained(path: Path, epochs: int = 2) -> Any:
    """Train for so many epochs, going on from the file if it is there."""
    settings = Training(epochs=epochs, batch_size=8, schedule="constant")
    start = _start(path)
    data = toys.image_set(12, shape=start.input_shape)
    found = train(start, data, None, settings, seed=0, checkpoint=path)
    return {"history": found.history, "weights": found.classifier.weights_digest()}


def _write_curves(path: Path) -> None:
    write_json(path, Sensitivity.from_json(CURVES).to_json())


def _write_front(path: Path) -> None:
    rows = [{"class": "cat", "kept_kernels": 0.25, "kept_macs": 0.125}] * 2
    write_json(path, {"composed_accuracy": 0.75, "modules": rows, "files": ["cat.safetensors"]})


def _write_run(path: Path) -> None:
    """The report of a finished run, and beside it one that was stopped."""
    recipe = load_recipe(str(HERE / "recipe.toml")).model_dump(mode="json") | {"places": {}}
    write_json(path.with_name("recipe.json"), recipe)
    write_json(path, pages.facts("cat").model_dump(mode="json"))
    write_json(path.parent / "stopped" / "recipe.json", recipe | {"title": "Stopped"})
    event = {"time": "2026-11-22T10:00:00.000+00:00", "stage": "search", "done": 3, "total": 20}
    lines = f'{json.dumps(event)}\n{{"time": "2026-'
    (path.parent / "stopped" / "events.jsonl").write_text(lines)


def _read_run(path: Path) -> Any:
    runs = {run.title: [run.seed, run.state, dict(run.figures)] for run in find_runs(path.parent)}
    report = read_report(path)
    return {"runs": runs, "report": report.model_dump(mode="json", exclude=LARGE)}


LARGE = {"evidence", "recipe", "kept", "overlap", "sensitivity"}
CURVES = {"ratios": [0.25, 0.5, 1.0], "accuracy": {"a": [0.25, 0.5, 0.75], "b": [0.7, 0.75, 0.75]}}
RECIPE = """title = "Golden"
seed = 7

[strong_data]
source = "digits"

[weak_data]
source = "digits"
train = 0.5
search = 0.25
calibration = 0.25

[strong]
model = "lenet5"
[strong.training]
epochs = 3

[weak]
model = "lenet5"
width = 0.5
target_images = 5

[search]
name = "genetic"
[search.genetic]
generations = 4

[patch]
targets = ["2"]
"""
KINDS: dict[str, Kind] = {
    "importance.safetensors": Kind(
        lambda path: measure_importance(_strong(), toys.traced(_strong()), toys.image_set(6)).save(
            path
        ),
        _read_importance,
    ),
    **{f"{name}.checkpoint": _search(name) for name in SEARCHES},
    START: Kind(
        lambda path: save(toys.classifier("lenet5", shape=(1, 8, 8)), path),
        lambda path: load_as(Classifier, path).weights_digest(),
    ),
    "training.checkpoint": Kind(trained, trained),
    "sensitivity.json": Kind(
        _write_curves, lambda path: Sensitivity.from_json(read_json(path)).to_json()
    ),
    "recipe.toml": Kind(
        lambda path: path.write_text(RECIPE),
        lambda path: load_recipe(str(path)).model_dump(mode="json"),
    ),
    "split.json": Kind(_write_front, lambda path: _figures(read_json(path))),
    "run/report.json": Kind(_write_run, _read_run),
    "exported.pt2": Kind(lambda path: export(_start(path), path), describe_export),
    "exported.onnx": Kind(lambda path: export(_start(path), path), describe_export),
}
CONTAINERS = [name for name in KINDS if name.endswith((".safetensors", ".checkpoint"))]


def main() -> None:
    """Write them all."""
    expected = {}
    for name, kind in KINDS.items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).unlink(missing_ok=True)
        kind.write(HERE / name)
        expected[name] = kind.read(HERE / name)
    write_json(HERE / EXPECTED, expected)


if __name__ == "__main__":
    main()
