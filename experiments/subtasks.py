"""Sub-tasks of 2, 3 and 5 classes of CIFAR-10, cut out of a third-party ResNet-20.

What ``cnnsplitter split --subtask`` does with the gradient search at half of the multiply-adds, as
it was cut, with new batch-norm statistics, compensated (in closed form, without labels), and
shortly fine-tuned after that (without labels). Run it again after a stop: what is finished is not
done again, and a search goes on at its checkpoint.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import Splits, load_data
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.evaluation import evaluate
from cnnsplitter.finetuning import FineTuning, fine_tune
from cnnsplitter.models import build_model
from cnnsplitter.preprocessing import IMAGENET
from cnnsplitter.recalibration import recalibrate
from cnnsplitter.results import Row
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import trace
from cnnsplitter.subtasks.searching import subtask
from cnnsplitter.terminal import Terminal
from cnnsplitter.weights import load_weights
from experiments.result_rows import known_rows, write_rows

HERE = Path(__file__).parent
TASKS = (("cat", "ship"), ("cat", "dog", "ship"), ("airplane", "cat", "dog", "horse", "truck"))
SEARCH = GradientSearch(
    keep=0.5, target="multiply-adds", rounds=15, anneal=12, steps=50, pairs=64, start_pairs=640
)
SEARCH_IMAGES = 500
FINE_TUNING = FineTuning(epochs=2, batch_size=50, flip=True)


def main(
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    weights: Annotated[Path, typer.Option(help="The ResNet-20 weights.")],
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("runs/subtasks"),
    out: Annotated[Path, typer.Option(help="Results file.")] = HERE / "results/subtasks.json",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 1,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Run every case that is not in the results yet."""
    torch.set_num_threads(threads)
    runs.mkdir(parents=True, exist_ok=True)
    command = f"python -m experiments.subtasks --cifar10 {cifar10.name} --weights {weights.name}"
    rows = known_rows(out, command)
    done = {(row["classes"], row["seed"]) for row in rows}
    with Terminal() as terminal:
        for seed in range(seeds):
            data = load_data(cifar10, seed=seed)
            strong = third_party(weights, data)
            for classes in TASKS:
                if (",".join(classes), seed) not in done:
                    rows.append(case(strong, data, classes, seed, runs, terminal))
                    write_rows(out, rows, command)
    terminal.table("Sub-tasks", rows)


def third_party(weights: Path, data: Splits) -> Classifier:
    """Return the ResNet-20 with weights that others trained."""
    net, architecture = build_model("resnet20", len(data.classes), data.input_shape)
    net = load_weights(net, weights)
    return Classifier(net, data.classes, data.input_shape, IMAGENET, architecture)


def case(
    strong: Classifier,
    data: Splits,
    classes: tuple[str, ...],
    seed: int,
    runs: Path,
    terminal: Terminal,
) -> Row:
    """Search one sub-task; compare it with the strong model restricted to its classes."""
    found = subtask(
        strong,
        classes,
        data,
        search=SEARCH,
        seed=seed,
        search_images=SEARCH_IMAGES,
        checkpoint=runs / f"{'-'.join(classes)}-{seed}.checkpoint",
        progress=terminal.progress,
    )
    images, test = (part.relabel(classes) for part in (data.train, data.test))
    channels = trace(found.strong)
    adapted = recalibrate(found.model, images, seed=seed)
    names = {"sub-task": found.model}
    filled = compensate(names, found.strong, channels, images, seed=seed)
    tuned = fine_tune(
        filled, found.strong, images, FINE_TUNING, seed=seed, progress=terminal.progress
    )
    by_model = {row["model"]: row for row in found.rows(data.test, tuned=filled["sub-task"])}
    narrow = by_model["sub-task"]
    return {
        "classes": ",".join(classes),
        "seed": seed,
        "kept_kernels": found.result.best.kept,
        "kept_macs": narrow["kept_macs"],
        "accuracy_strong": by_model["strong model"]["accuracy"],
        "accuracy_plain": by_model["plain sub-task"]["accuracy"],
        "accuracy_recalibrated": evaluate(adapted, test).accuracy,
        "accuracy_compensated": narrow["accuracy"],
        "accuracy_tuned": evaluate(tuned["sub-task"], test).accuracy,
        "accuracy_search": found.result.accuracy,
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
