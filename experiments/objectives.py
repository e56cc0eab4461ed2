"""What a gradient search should want of scores, and through which gates: every way, one network.

The ResNet-20 of `experiments.split` at 70 % of the kernels, with its settings, on images kept for
calibration: test images choose nothing. Run it again after a stop: what is finished is not done
again, and a search goes on at its checkpoint.
"""

import time
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_args

import torch
import typer

from cnnsplitter.class_modules import compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import Splits
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.results import Row
from cnnsplitter.search import GradientSearch
from cnnsplitter.search.gradient.gates import Gate
from cnnsplitter.search.gradient.pairs import Form
from cnnsplitter.splitting import split, trace
from cnnsplitter.terminal import Terminal
from experiments.result_rows import known_rows, write_rows
from experiments.split import accuracy, splits_of, strong_model

HERE = Path(__file__).parent
MODEL = "resnet20"
DEFAULTS = GradientSearch()
WAYS = (
    *((form, DEFAULTS.gate) for form in get_args(Form)),
    *((DEFAULTS.form, gate) for gate in get_args(Gate) if gate != DEFAULTS.gate),
)
"""(form, gate): every form with the default gate, then every other gate with the default form."""


def main(
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    models: Annotated[Path, typer.Option(help="Folder of the weights.")],
    runs: Annotated[Path, typer.Option(help="Folder of checkpoints.")] = Path("runs/objectives"),
    out: Annotated[Path, typer.Option(help="Results file.")] = HERE / "results/objectives.json",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 2,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
) -> None:
    """Run every case that is not in the results yet."""
    torch.set_num_threads(threads)
    settings = tomllib.loads((HERE / "split.toml").read_text())
    command = f"python -m experiments.objectives --cifar10 {cifar10.name} --models {models.name}"
    rows = known_rows(out, command)
    done = {(row["form"], row["gate"], row["seed"]) for row in rows}
    own = settings["models"][MODEL]
    data, _ = splits_of(cifar10, settings["images"] | {"tuning": 1})
    strong = strong_model(MODEL, models / own["weights"], data)
    runs.mkdir(parents=True, exist_ok=True)
    with Terminal() as terminal:
        for seed in range(seeds):
            for form, gate in WAYS:
                if (form, gate, seed) in done:
                    continue
                search = GradientSearch(**own["gradient"], keep=0.7, form=form, gate=gate)
                rows.append(case(strong, data, search, seed, runs, terminal))
                write_rows(out, rows, command)
    terminal.table("Objectives and gates", rows)


def case(
    strong: Classifier,
    data: Splits,
    search: GradientSearch,
    seed: int,
    runs: Path,
    terminal: Terminal,
) -> Row:
    """Search once; return the accuracy of the composed model, plain and compensated."""
    used = time.process_time()
    found = split(
        strong,
        data,
        search=search,
        seed=seed,
        compensate=False,
        checkpoint=runs / f"{search.form}-{search.gate}-{seed}.checkpoint",
        progress=terminal.progress,
    )
    facts: dict[str, Any] = {"cpu_seconds": time.process_time() - used}
    modules = dict(found)
    filled = compensate(modules, strong, trace(strong), data.train, seed=seed)
    return {
        **{"form": search.form, "gate": search.gate, "seed": seed, **facts},
        "kept_kernels": found.result.best.kept,
        "images": len(data.calibration),
        "accuracy_strong": accuracy(strong, data.calibration),
        "accuracy_plain": accuracy(compose(modules), data.calibration),
        "accuracy_compensated": accuracy(compose(filled), data.calibration),
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
