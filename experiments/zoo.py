"""Make the zoo that comes with the package, or a part of it; run again after a stop it goes on.

What is trained and cut out is kept in a folder of runs; the package gets copies of it, rounded to
8 bits, and ``docs/zoo.md`` their figures, which are measured on the rounded files.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import cnnsplitter.zoo
from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import Splits
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.evaluation import compare, evaluate
from cnnsplitter.importance import measure_importance
from cnnsplitter.patches.patching import patch
from cnnsplitter.pipeline import save_modules
from cnnsplitter.results import read_json, write_json
from cnnsplitter.search import GradientSearch
from cnnsplitter.splitting import limited, split, trace
from cnnsplitter.storage.saving import describe, load_as, save
from cnnsplitter.terminal import Terminal
from experiments.zoo_page import page
from experiments.zoo_training import FAMILIES, ZooFamily, opened, strong_of, weak_of

ZOO = Path(cnnsplitter.zoo.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
MOST_BYTES = 5_000_000
COMMAND = "python -m experiments.zoo --cifar10 cifar10.npz --fashion-mnist fashion-mnist.npz"
SEARCH = GradientSearch(keep=0.4, rounds=6, steps=25, anneal=4, pairs=64)
SEARCH_IMAGES = 300


def main(
    cifar10: Annotated[Path, typer.Option(help="CIFAR-10 as npz.")],
    fashion_mnist: Annotated[Path, typer.Option(help="Fashion-MNIST as npz.")],
    runs: Annotated[Path, typer.Option(help="Folder of what is trained.")] = Path("runs/zoo"),
    threads: Annotated[int, typer.Option(help="Processor threads.")] = 1,
    only: Annotated[str, typer.Option(help="Only families whose names hold this text.")] = "",
) -> None:
    """Train, split and pack every family, then write the page."""
    torch.set_num_threads(threads)
    places = {"cifar10": cifar10, "fashion-mnist": fashion_mnist}
    with Terminal() as terminal:
        for family in FAMILIES:
            if only in family.name:
                data = opened(family, places[family.data.name])
                weak = weak_of(family, data, runs, terminal.progress)
                strong = strong_of(family, data, runs, terminal.progress)
                module = module_of(family, strong, data, runs, terminal)
                pack(family, weak, strong, module, data, runs)
    write_page()


def module_of(
    family: ZooFamily, strong: Classifier, data: Splits, runs: Path, terminal: Terminal
) -> ClassModule:
    """Return the class module of the class that the weak network is short of."""
    folder = runs / f"modules-{family.name}"
    path = folder / f"{family.scarce}.safetensors"
    if not path.exists():
        channels = trace(strong)
        found = split(
            strong,
            data,
            search=SEARCH,
            compensate=False,
            seed=family.seed,
            importance=measure_importance(strong, channels, limited(data.train, 1000, family.seed)),
            search_images=SEARCH_IMAGES,
            checkpoint=folder / "search.checkpoint",
            progress=terminal.progress,
        )
        filled = compensate(found, strong, channels, data.train, seed=family.seed)
        details = {"seed": family.seed, "search": SEARCH.model_dump(mode="json")}
        save_modules(replace(found, modules=filled), folder, details | {"compensated": True})
    return load_as(ClassModule, path)


def pack(
    family: ZooFamily,
    weak: Classifier,
    strong: Classifier,
    module: ClassModule,
    data: Splits,
    runs: Path,
) -> None:
    """Write the family's files to the package, and their figures beside them."""
    sources: dict[str, tuple[Classifier | ClassModule, Path]] = {
        family.name: (strong, runs / f"{family.name}.safetensors"),
        family.weak_name: (weak, runs / f"{family.weak_name}.safetensors"),
        family.module_name: (module, runs / f"modules-{family.name}/{family.scarce}.safetensors"),
    }
    for name, (model, source) in sources.items():
        details = describe(source)["details"]
        save(model, ZOO / f"{name}.safetensors", details=details, overwrite=True, compact=True)
    index = read_json(ZOO / "index.json") if (ZOO / "index.json").exists() else {}
    index |= {name: _facts(name) for name in sources}
    index[family.weak_name]["patched"] = _patched(family, data)
    for name in (family.name, family.weak_name):
        accuracy = evaluate(load_as(Classifier, Path(f"zoo:{name}")), data.test).accuracy
        index[name]["test_accuracy"] = accuracy
    write_json(ZOO / "index.json", dict(sorted(index.items())))
    if sum(path.stat().st_size for path in ZOO.glob("*.safetensors")) > MOST_BYTES:
        raise SystemExit(f"{ZOO}: larger than {MOST_BYTES} bytes")


def _facts(name: str) -> dict[str, Any]:
    path = ZOO / f"{name}.safetensors"
    manifest = describe(path)
    model = load_as(torch.nn.Module, path)
    cost = measure_cost(model, model.input_shape)  # type: ignore[arg-type]
    details = manifest["details"]
    kept = {key: details[key] for key in ("data", "training", "training_images") if key in details}
    return {
        "kind": manifest["kind"],
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "multiply_adds": cost.multiply_adds,
        "kernels": cost.kernels,
        "command": COMMAND,
        **kept,
        **{
            key: details[key]
            for key in ("seed", "search", "compensated", "versions", "machine")
            if key in details
        },
    }


def _patched(family: ZooFamily, data: Splits) -> dict[str, Any]:
    """Return what the family's class module does to its weak network on the test images."""
    weak = load_as(Classifier, Path(f"zoo:{family.weak_name}"))
    module = load_as(ClassModule, Path(f"zoo:{family.module_name}"))
    model = patch(weak, {family.scarce: module}, data)
    (row,) = compare(weak, model, data.test).rows()
    return {"module": family.module_name, **row}


def write_page() -> None:
    """Write ``docs/zoo.md`` from the figures beside the files."""
    PAGE.write_text(page(json.loads((ZOO / "index.json").read_text())))


if __name__ == "__main__":
    try:
        typer.run(main)
    except CnnSplitterError as error:
        raise SystemExit(f"error: {error}") from error
