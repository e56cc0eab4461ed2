"""The command that patches a weak model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.evaluations import show_comparison
from cnnsplitter.commands.options import (
    Channels,
    Data,
    Force,
    Json,
    Latency,
    ModelArguments,
    Out,
    Quiet,
    Rebuild,
    Root,
    Seed,
    Settings,
    Size,
    builder,
    details,
    load_model,
    open_fitting_data,
    require_free,
)
from cnnsplitter.commands.tables import costs_of, show_costs
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.unpacking import Builder


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
    latency: Latency = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    seed: Seed = 0,
    settings: Settings = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attach class modules to a weak model and show what that changes on the test images."""
    require_free(out, force)
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.evaluation import compare
    from cnnsplitter.patching import patch as attach
    from cnnsplitter.storage import save

    terminal = Terminal(json, quiet)
    build = builder(context)
    model = load_model(Classifier, weak, build)
    parts = _load_modules(modules, build)
    with terminal:
        images = open_fitting_data(context, terminal, {weak: model})
        patched = attach(model, parts, images, calibration=calibration, rule=rule)
        comparison = compare(model, patched, images.test)
    costs = costs_of({"weak": model, "patched": patched}, images.input_shape, latency)
    kept = details(seed=seed, data=data, weak=weak.name, metrics=comparison.rows())
    save(patched, out, details=kept, overwrite=force)
    show_comparison(comparison, terminal)
    show_costs(costs, terminal)
    terminal.line(f"Written to {out}")
    cost = {name: vars(cost) for name, cost in costs.items()}
    terminal.result({"file": str(out), "cost": cost, **comparison.to_json()})


def _load_modules(texts: list[str], build: "Builder | None") -> dict[str, "ClassModule"]:
    """Load class modules, by the names of the classes that they are to patch."""
    from cnnsplitter.class_modules import ClassModule

    modules: dict[str, ClassModule] = {}
    for text in texts:
        name, path = _named(text)
        module = load_model(ClassModule, path, build)
        target = name or module.source_class
        if target in modules:
            raise SettingsError(f"--with names the class {target!r} twice; keep one")
        modules[target] = module
    return modules


def _named(text: str) -> tuple[str | None, Path]:
    """Split ``CLASS=FILE``; a file whose own name holds ``=`` is taken as a file."""
    name, equals, path = text.partition("=")
    if Path(text).exists() or not equals:
        return None, Path(text)
    return name, Path(path)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(patch)
