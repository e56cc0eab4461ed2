"""Patch a too-simple CNN with class modules of a third-party ResNet-20, over seeds and classes.

Run it again after a stop: what is finished is not done again, and every case is written at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch
import typer

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.evaluation import compare
from cnnsplitter.models import build_model
from cnnsplitter.patches.patching import patch
from cnnsplitter.pipeline import Run
from cnnsplitter.recipes import load_recipe
from cnnsplitter.results import Row
from cnnsplitter.storage.saving import save
from cnnsplitter.terminal import Terminal
from cnnsplitter.weights import load_weights
from experiments.result_rows import known_rows, write_rows

HERE = Path(__file__).parent
METHODS = {"min-max": "replace", "min-max-renormalised": "renormalise"}


def main(
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    cifar100: Annotated[Path, typer.Option(help="The nine CIFAR-100 classes as npz.")],
    weights: Annotated[Path, typer.Option(help="The ResNet-20 weights.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/patch-first"),
    out: Annotated[Path, typer.Option(help="Results file.")] = HERE / "results/patch-first.json",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 2,
) -> None:
    """Split, patch four classes, compare on the test images."""
    torch.set_num_threads(threads)
    command = (
        f"python -m experiments.patch_first --cifar10 {cifar10.name} --cifar100 {cifar100.name} "
        f"--weights {weights.name} --threads {threads}"
    )
    places = {"cifar10": str(cifar10), "cifar100": str(cifar100)}
    rows = known_rows(out, command)
    done = {(row["target"], row["seed"]) for row in rows}
    with Terminal() as terminal:
        for seed in range(seeds):
            recipe = load_recipe(str(HERE / "patch-first.toml")).adapted(seed=seed)
            run = Run(recipe, runs / f"seed-{seed}", places, terminal.progress)
            run.check()
            run.prepare()
            provide_strong(run, weights)
            for target in recipe.patch.targets:
                if (target, seed) not in done:
                    rows += cases(run, target)
                    write_rows(out, rows, command)
    terminal.table("Patches", rows)


def provide_strong(run: Run, weights: Path) -> None:
    """Put the third-party weights where the run looks for its strong model."""
    path = run.folder / "strong.safetensors"
    if path.exists():
        return
    data, settings = run.strong_data, run.recipe.strong
    net, architecture = build_model(settings.model, len(data.classes), data.input_shape)
    net = load_weights(net, weights)
    strong = Classifier(net, data.classes, data.input_shape, settings.preprocessing, architecture)
    save(strong, path, details={"weights": weights.name})


def cases(run: Run, target: str) -> Iterator[Row]:
    """Yield one row per method, for the class module and for the whole strong model."""
    data, weak = run.weak_data(target), run.weak(target)
    modules = {"": run.split[target], "-whole-strong": ClassModule.of(run.strong, target)}
    for suffix, module in modules.items():
        kept = 1.0
        if module.selection is not None:
            kept = run.channels.kernels(module.selection) / run.channels.kernel_count
        for method, rule in METHODS.items():
            patched = patch(weak, {target: module}, data, calibration="min-max", rule=rule)
            (figures,) = compare(weak, patched, data.test).rows()
            yield {
                **figures,
                "seed": run.recipe.seed,
                "method": method + suffix,
                "kept_kernels": kept,
            }


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
