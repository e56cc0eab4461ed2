"""A new task composed of class modules of two strong models, against a model trained for it.

Five CIFAR-10 classes of a third-party ResNet-20 and five classes of a second ResNet-20, trained
here on other data. Class modules are compensated, in closed form and without labels, and
calibrations are fitted; nothing else is. The model to compare with is a ResNet-20 trained
from scratch on the mixture. Run it again after a stop: what is finished is not done again, training
and searches go on at their checkpoints. Figures are means over the ten classes, which have unequal
numbers of test images.
"""

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.nn import functional

from cnnsplitter.calibration import METHODS
from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.composition import LEARNED, fit_composition
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits, make_splits
from cnnsplitter.data.mixtures import mix_splits
from cnnsplitter.data.npz import load_npz
from cnnsplitter.errors import CnnSplitterError, DataError
from cnnsplitter.inference import predict
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import IMAGENET, Preprocessing
from cnnsplitter.results import Row
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import limited, split, trace
from cnnsplitter.terminal import Terminal
from cnnsplitter.training import Training, train
from cnnsplitter.weights import load_weights
from experiments.result_rows import known_rows, write_rows

HERE = Path(__file__).parent
SIZE = 32
Modules = Mapping[str, ClassModule]


@dataclass(frozen=True)
class Place:
    """What every case needs.

    Attributes:
        data: Name of a data set to its npz file.
        weights: Of the first strong model.
        runs: Folder of checkpoints.
        settings: Of ``new-task.toml``.
        terminal: Shows progress.
    """

    data: Mapping[str, Path]
    weights: Path
    runs: Path
    settings: Mapping[str, Any]
    terminal: Terminal


def main(
    data: Annotated[Path, typer.Option(help="Folder of the npz files.")],
    weights: Annotated[Path, typer.Option(help="The ResNet-20 weights.")],
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("runs/new-task"),
    out: Annotated[Path, typer.Option(help="Results file.")] = HERE / "results/new-task.json",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Run every case that is not in the results yet."""
    torch.set_num_threads(threads)
    settings = tomllib.loads((HERE / "new-task.toml").read_text())
    command = f"python -m experiments.new_task --data {data.name} --weights {weights.name}"
    rows = known_rows(out, command)
    done = {(row["second"], row["seed"]) for row in rows}
    files = {name: data / f"{name}.npz" for name in ("cifar10", *settings["second"])}
    with Terminal() as terminal:
        place = Place(files, weights, runs, settings, terminal)
        for seed in range(seeds):
            for second in settings["second"]:
                if (second, seed) not in done:
                    rows += case(place, second, seed)
                    write_rows(out, rows, command)
    terminal.table("New tasks", rows)


def case(place: Place, second: str, seed: int) -> list[Row]:
    """Return the rows of one new task: five classes of either model, drawn by the seed."""
    chosen = random.Random(seed)
    sets = {name: read_splits(place, name, seed) for name in ("cifar10", second)}
    classes = {name: tuple(chosen.sample(one.classes, 5)) for name, one in sets.items()}
    task = mix_splits(*(sets[name].relabel(classes[name]) for name in sets))
    models = {"cifar10": third_party(place, sets["cifar10"])}
    models[second] = trained(place, f"{second}-{seed}", sets[second], seed, place.settings[second])
    scratch = trained(place, f"scratch-{second}-{seed}", task, seed, place.settings["scratch"])
    shared: Row = {
        "second": second,
        "seed": seed,
        "classes": ",".join(task.classes),
        "train_images": len(task.train),
        "accuracy_scratch": mean_recall(predict(scratch, task.test), task.test),
        **{
            f"accuracy_strong_{number}": mean_recall(
                predict(models[name], sets[name].test), sets[name].test
            )
            for number, name in enumerate(models, 1)
        },
    }
    whole = {c: ClassModule.of(models[name], c) for name in sets for c in classes[name]}
    narrow: dict[str, ClassModule] = {}
    for name in sets:
        file = place.runs / f"split-{name}-{seed}"
        found = modules_of(place, models[name], sets[name], seed, file)
        narrow |= {c: found[c] for c in classes[name]}
    full = sum(measure_cost(model, model.input_shape).multiply_adds for model in whole.values())
    return [
        {**shared, **row}
        for modules in (whole, narrow)
        for row in compositions(list(modules.values()), task, full, seed)
    ]


def read_splits(place: Place, name: str, seed: int) -> Splits:
    """Return a data set as colour images 32 x 32, a part of it if the settings say so."""
    train_images, test = load_npz(place.data[name])
    if test is None:
        raise DataError(f"{place.data[name]}: has no test images; give the whole data set")
    parts = make_splits(train_images, test, seed=seed)
    most = place.settings["images_per_class"] * len(parts.classes)
    sets = (limited(part, most, seed) for part in parts.sets)
    return Splits(*(in_colour(part, name) for part in sets))


def in_colour(images: ImageSet, name: str) -> ImageSet:
    """Return images 32 x 32 in colour: smaller grey ones get a black rim and equal channels."""
    channels, height, width = images.images.shape
    if (channels, height, width) == (3, SIZE, SIZE):
        return images
    rim = (SIZE - width) // 2, (SIZE - height) // 2
    pixels = images.images.read(images.rows).expand(-1, 3, -1, -1)
    padded = functional.pad(pixels, (rim[0], rim[0], rim[1], rim[1]))
    return ImageSet.from_arrays(padded, images.labels, images.classes, name)


def third_party(place: Place, data: Splits) -> Classifier:
    """Return the ResNet-20 with weights that others trained."""
    net, architecture = build_model("resnet20", len(data.classes), data.input_shape)
    net = load_weights(net, place.weights)
    return Classifier(net, data.classes, data.input_shape, IMAGENET, architecture)


def trained(
    place: Place, name: str, data: Splits, seed: int, epochs: Mapping[str, int]
) -> Classifier:
    """Return a ResNet-20 trained on ``data``, from its checkpoint on if there is one."""
    net, architecture = build_model("resnet20", len(data.classes), data.input_shape, seed=seed)
    scale = Preprocessing(*data.train.channel_statistics())
    start = Classifier(net, data.classes, data.input_shape, scale, architecture)
    place.runs.mkdir(parents=True, exist_ok=True)
    return train(
        start,
        data.train,
        None,
        Training.strong(**epochs),
        seed=seed,
        checkpoint=place.runs / f"{name}.checkpoint",
        progress=place.terminal.progress,
        stage=f"train {name}",
    ).classifier


def modules_of(place: Place, strong: Classifier, data: Splits, seed: int, file: Path) -> Modules:
    """Return the compensated class modules of one strong model."""
    search = GradientSearch.model_validate(place.settings["search"])
    found = split(
        strong,
        data,
        search=search,
        seed=seed,
        search_images=place.settings["search_images"],
        compensate=False,
        checkpoint=file.with_suffix(".checkpoint"),
        progress=place.terminal.progress,
    )
    return compensate(found, strong, trace(strong), data.train, seed=seed)


def compositions(
    modules: Sequence[ClassModule], task: Splits, full: int, seed: int
) -> Iterator[Row]:
    """Yield one row for each calibration."""
    images = task.calibration.balanced(torch.Generator().manual_seed(seed))
    costs = sum(measure_cost(module, module.input_shape).multiply_adds for module in modules)
    scores = predict(compose(modules), task.test)
    for method in (None, *METHODS, LEARNED):
        calibrated = scores
        if method is not None:
            fitted = fit_composition(modules, images, method)
            columns = zip(task.classes, scores.unbind(1), strict=True)
            calibrated = torch.stack([fitted[name](column) for name, column in columns], dim=1)
        yield {
            "kept_macs": costs / full,
            "calibration": method or "none",
            "calibration_images": len(images),
            "accuracy_composed": mean_recall(calibrated, task.test),
        }


def mean_recall(scores: Tensor, images: ImageSet) -> float:
    """Return the mean over the classes of the share of their images that is right by ``scores``."""
    right = (scores.argmax(1) == images.labels).double()
    counts = images.counts()
    sums = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, images.labels, right)
    return (sums / counts).mean().item()


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
