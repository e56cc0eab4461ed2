"""Commands that split a strong model: ``sensitivity``, ``split`` and ``compose``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.options import (
    Channels,
    Data,
    Force,
    Json,
    Out,
    Quiet,
    Root,
    Seed,
    Settings,
    Size,
    details,
    open_data,
    require_free,
)
from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.sensitivity import Sensitivity

Strong = Annotated[Path, typer.Argument(help="The strong model, saved by this package.")]
SearchImages = Annotated[
    int | None, typer.Option("--search-images", min=2, help="Most images that score selections.")
]


def sensitivity(
    context: typer.Context,
    strong: Strong,
    data: Data,
    out: Out,
    search_images: SearchImages = 200,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure how much accuracy each layer costs when it keeps fewer kernels."""
    require_free(out, force)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.importance import measure_importance
    from cnnsplitter.results import write_json
    from cnnsplitter.scoring import CutScorer
    from cnnsplitter.sensitivity import measure_sensitivity
    from cnnsplitter.splitting import limited, trace
    from cnnsplitter.storage import load_as

    terminal = Terminal(json, quiet)
    model = load_as(Classifier, strong)
    with terminal:
        images = open_data(context, terminal)
        model.require_classes(images.classes)
        channel_map = trace(model)
        scale = limited(images.search, search_images, seed)
        curves = measure_sensitivity(
            CutScorer(model, channel_map, scale),
            measure_importance(model, channel_map, images.train, progress=terminal.progress),
            scale.labels,
            progress=terminal.progress,
        )
    write_json(out, curves.to_json())
    terminal.table("Accuracy of the composed model by share of kernels kept", _rows(curves))
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), **curves.to_json()})


def split(
    context: typer.Context,
    strong: Strong,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder of the class modules.")],
    preset: Annotated[
        str | None, typer.Option(help="A published configuration, such as simcnn-cifar10.")
    ] = None,
    population: Annotated[int | None, typer.Option(help="Individuals per class.")] = None,
    generations: Annotated[int | None, typer.Option(help="Generations of the search.")] = None,
    size_weight: Annotated[float | None, typer.Option(help="Weight of small modules.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many without a gain.")] = None,
    curves: Annotated[
        Path | None, typer.Option("--sensitivity", help="Curves measured by `sensitivity`.")
    ] = None,
    search_images: SearchImages = None,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Split a strong model into class modules; run it again to go on after a stop."""
    summary = out / "split.json"
    require_free(summary, force)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.pipeline import adapted_search, save_modules
    from cnnsplitter.results import read_json, write_json
    from cnnsplitter.sensitivity import Sensitivity
    from cnnsplitter.splitting import split as find
    from cnnsplitter.storage import load_as

    search = adapted_search(
        preset,
        population=population,
        generations=generations,
        size_weight=size_weight,
        patience=patience,
    )
    terminal = Terminal(json, quiet)
    model = load_as(Classifier, strong)
    checkpoint = out / "search.checkpoint"
    if force:
        checkpoint.unlink(missing_ok=True)
    with terminal:
        images = open_data(context, terminal)
        found = find(
            model,
            images,
            search=search,
            seed=seed,
            sensitivity=Sensitivity.from_json(read_json(curves)) if curves else None,
            search_images=search_images,
            checkpoint=checkpoint,
            progress=terminal.progress,
        )
    kept = details(seed=seed, data=data, strong=strong.name, search=search.model_dump(mode="json"))
    files = save_modules(found, out, kept)
    rows = found.rows(model)
    result = {"accuracy": found.result.accuracy, "files": files, "modules": rows}
    write_json(summary, result)
    checkpoint.unlink(missing_ok=True)
    terminal.table("Class modules (shares of the strong model)", rows)
    terminal.line(f"Composed accuracy on the search images: {found.result.accuracy:.3f}")
    terminal.line(f"Written to {out}")
    terminal.result(result)


def compose(
    context: typer.Context,
    modules: Annotated[list[Path], typer.Argument(help="Class modules; a folder means all in it.")],
    out: Out,
    data: Annotated[
        str | None, typer.Option("--data", help="Images to calibrate and evaluate on.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help="Make scores of different strong models comparable.")
    ] = None,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put class modules side by side, as one model."""
    require_free(out, force)
    if calibration and not data:
        raise SettingsError("--calibration needs images; give --data")
    from cnnsplitter.class_modules import ClassModule, calibrate
    from cnnsplitter.class_modules import compose as put_together
    from cnnsplitter.commands.models import show_evaluation
    from cnnsplitter.evaluation import evaluate
    from cnnsplitter.storage import load_as, save

    terminal = Terminal(json, quiet)
    parts = [load_as(ClassModule, path) for path in _spread(modules)]
    composed = put_together(parts)
    result: dict[str, Any] = {"file": str(out), "classes": composed.classes}
    with terminal:
        if data:
            images = open_data(context, terminal).relabel(composed.classes)
            if calibration:
                fitted = {
                    part.source_class: calibrate(
                        part, images.calibration, part.source_class, calibration, clip=False
                    )
                    for part in parts
                }
                composed = put_together(parts, fitted)
            evaluation = evaluate(composed, images.test)
            result["test"] = evaluation.to_json()
            show_evaluation(evaluation, terminal)
    save(composed, out, details=details(), overwrite=force)
    terminal.line(f"Written to {out}: {', '.join(composed.classes)}")
    terminal.result(result)


def _spread(paths: list[Path]) -> list[Path]:
    """Replace folders by the class modules in them."""
    spread: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not inside:
            raise StorageError(f"{path}: holds no class module (*.safetensors)")
        spread += inside
    return spread


def _rows(curves: "Sensitivity") -> list[dict[str, Any]]:
    sensitive = curves.sensitive()
    return [
        {"layer": name}
        | {f"{r:.0%}": a for r, a in zip(curves.ratios, accuracy, strict=True)}
        | {"sensitive": "yes" if name in sensitive else "", "start": _percent(starts)}
        for (name, starts), accuracy in zip(
            curves.start_ratios().items(), curves.accuracy.tolist(), strict=True
        )
    ]


def _percent(ratios: tuple[float, ...]) -> str:
    return " ".join(f"{100 * r:.0f}" for r in ratios) + " %"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (sensitivity, split, compose):
        app.command()(command)
