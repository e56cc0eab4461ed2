"""The command that patches a weak model."""

from pathlib import Path
from typing import Annotated

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
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal


def patch(
    context: typer.Context,
    weak: Annotated[Path, typer.Argument(help="The weak model, saved by this package.")],
    modules: Annotated[
        list[str],
        typer.Option(
            "--with", help="Class module; CLASS=FILE if the weak model names the class otherwise."
        ),
    ],
    data: Data,
    out: Out,
    calibration: Annotated[
        str, typer.Option(help="min-max, percentile, outlier or z-score.")
    ] = "min-max",
    rule: Annotated[str, typer.Option(help="replace (the paper's) or renormalise.")] = "replace",
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time, too.")] = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attach class modules to a weak model and show what that changes on the test images."""
    require_free(out, force)
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.commands.runs import show_patch
    from cnnsplitter.cost import measure_cost
    from cnnsplitter.evaluation import compare
    from cnnsplitter.patching import patch as attach
    from cnnsplitter.storage import load_as, save

    terminal = Terminal(json, quiet)
    model = load_as(Classifier, weak)
    parts: dict[str, ClassModule] = {}
    for text in modules:
        name, part = _named(text)
        module = load_as(ClassModule, part)
        target = name or module.source_class
        if target in parts:
            raise SettingsError(f"--with names the class {target!r} twice; keep one")
        parts[target] = module
    with terminal:
        images = open_data(context, terminal)
        patched = attach(model, parts, images, calibration=calibration, rule=rule)
        comparison = compare(model, patched, images.test)
    costs = [
        {"model": name} | vars(measure_cost(m, images.input_shape, latency=latency))
        for name, m in (("weak", model), ("patched", patched))
    ]
    kept = details(seed=seed, data=data, weak=weak.name, comparison=comparison.rows())
    save(patched, out, details=kept, overwrite=force)
    for row in comparison.rows():
        show_patch(dict(row), terminal)
    lost, won = len(comparison.right_to_wrong), len(comparison.wrong_to_right)
    terminal.line(f"{won} images became right, {lost} became wrong.")
    terminal.table("Cost", costs)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), "cost": costs, **comparison.to_json()})


def _named(text: str) -> tuple[str | None, Path]:
    """Split ``CLASS=FILE``; a file whose own name holds ``=`` is taken as a file."""
    name, equals, path = text.partition("=")
    if Path(text).exists() or not equals:
        return None, Path(text)
    return name, Path(path)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(patch)
