"""The command that looks at a network before any search: ``doctor``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.networks import (
    Bake,
    ClassNames,
    InputShape,
    Width,
    baked,
    described_input,
    new_classifier,
    new_preprocessing,
    parsed_arguments,
)
from cnnsplitter.commands.options import (
    Channels,
    FreezeUnknown,
    Generations,
    Json,
    ModelArguments,
    OptionalData,
    Population,
    Quiet,
    Rebuild,
    Root,
    Seed,
    Settings,
    Size,
    UnitsName,
    Verbose,
    builder,
    load_model,
    open_data,
    tracing,
)
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal, duration

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.doctor import Estimate, Examination

_OF_NETWORKS = {"classes": None, "input_shape": None, "weights": None, "bake": False, "width": 1.0}
"""Options that are for a network by name only, and their defaults."""


def doctor(
    context: typer.Context,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A saved model, or a network: resnet20, torchvision:NAME, timm:NAME or "
            "package.module:factory.",
        ),
    ],
    data: OptionalData = None,
    classes: ClassNames = None,
    input_shape: InputShape = None,
    weights: Annotated[Path | None, typer.Option(help="Weights for a network.")] = None,
    population: Population = None,
    generations: Generations = None,
    search_images: Annotated[
        int | None, typer.Option(min=2, help="Images that score selections, for the estimate.")
    ] = None,
    bake: Bake = False,
    width: Width = 1.0,
    units: UnitsName = "conv",
    freeze_unknown: FreezeUnknown = False,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    seed: Seed = 0,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Tell before any search what can be selected. And is it exact, and how long will it take?"""
    from cnnsplitter.doctor import SEARCH_IMAGES, examine
    from cnnsplitter.planning.measured import default_seconds
    from cnnsplitter.recipes import SearchSettings
    from cnnsplitter.search import GeneticSearch
    from cnnsplitter.splitting import IMPORTANCE_IMAGES

    sizes = {"population": population, "generations": generations}
    search = SearchSettings(name="genetic").adapted(**sizes).search
    assert isinstance(search, GeneticSearch)
    terminal = Terminal(json, quiet, verbose=verbose)
    with terminal:
        images = open_data(context, terminal) if data else None
        model = _subject(context, images)
        scoring = len(images.search) if images else search_images or SEARCH_IMAGES
        found = examine(
            model,
            search=search,
            search_images=min(scoring, search_images or scoring),
            train_images=len(images.train) if images else IMPORTANCE_IMAGES,
            **tracing(context),
            seed=seed,
        )
        default = default_seconds(model, found, images.train if images else None)
    _show(context, model, found, default, terminal)
    terminal.result({"model": subject, **found.to_json(), "default_search_seconds": default})


def _subject(context: typer.Context, images: "Splits | None") -> "Classifier":
    """Load the saved model, or build the network, that the command is about."""
    from cnnsplitter.class_modules import require_same_shape
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.inference import best_device

    options, subject = context.params, context.params["subject"]
    is_named = subject.startswith("zoo:") or subject.endswith(".safetensors")
    if Path(subject).is_file() or is_named:
        for name, default in _OF_NETWORKS.items():
            if options[name] != default:
                flag = name.replace("_", "-")
                raise SettingsError(f"--{flag} is for a network by name; {subject} is a file")
        model = load_model(Classifier, Path(subject), builder(context))
        if images is not None:
            require_same_shape({subject: model.input_shape, "the data": images.input_shape})
        return model
    if options["rebuild"] is not None:
        raise SettingsError(f"--model is for a saved file; {subject} names a network itself")
    names, shape = described_input(images, options["classes"], options["input_shape"])
    arguments = parsed_arguments(options["model_arguments"])
    model = new_classifier(
        subject,
        names,
        shape,
        new_preprocessing(None, None),
        width=options["width"],
        arguments=arguments,
        seed=options["seed"],
    )
    if options["weights"] is not None:
        from cnnsplitter.weights import load_weights

        model.net = load_weights(model.net, options["weights"])
    if options["bake"]:
        model = baked(model)
    return model.to(best_device())


def _show(
    context: typer.Context,
    model: "Classifier",
    found: "Examination",
    default: float | None,
    terminal: Terminal,
) -> None:
    name, units = context.params["subject"], context.params["units"]
    channels, shape = found.channels, "x".join(map(str, model.input_shape))
    share = found.selectable / channels.kernel_count
    kernels = "kernels" if units == "conv" else "kernels and rows of linear layers"
    terminal.line(f"{name}: {type(model.net).__name__}, {len(model.classes)} classes, {shape}")
    terminal.line(
        f"{found.selectable:,} of {channels.kernel_count:,} {kernels} ({share:.0%}) can be "
        f"selected, as {channels.unit_count:,} units in {len(channels.groups)} groups."
    )
    if found.obstacle:
        terminal.line(f"A plain `split` refuses it: {found.obstacle}")
        terminal.line("With --freeze-unknown it goes on as shown here.")
    terminal.table("Layers", found.layers())
    terminal.table("Ties: kernels that are kept or dropped together", found.ties())
    terminal.table(
        "Masked against cut, on random images",
        [
            {
                "units kept": f"{check.share:.0%}",
                "kernels kept": f"{check.kernels:.0%}",
                "largest error": f"{check.error:.1e}",
                "": "agrees" if check.agrees else "DIFFERS",
            }
            for check in found.checks
        ],
    )
    terminal.line(
        f"\nTraced in {found.trace_seconds:.2f} s; "
        f"one class module is cut out in {1000 * found.extraction_seconds:.0f} ms."
    )
    if found.estimate is None:
        terminal.line("Nothing can be selected, so there is nothing to search.")
    else:
        _show_estimate(found.estimate, default, terminal)


def _show_estimate(estimate: "Estimate", default: float | None, terminal: Terminal) -> None:
    from cnnsplitter.doctor import TYPICAL_SHARE

    rows = {
        "gradient search, the default": default,
        "genetic: importance": estimate.importance,
        "genetic: sensitivity": estimate.sensitivity,
        "genetic: search": estimate.search,
        "genetic: in all": estimate.total,
    }
    terminal.table(
        "Estimated time of a split on this machine",
        [
            {"step": step, "time": "no gradient" if seconds is None else duration(seconds)}
            for step, seconds in rows.items()
        ],
    )
    terminal.line(
        f"Assumed: the genetic search with {estimate.population} individuals per class for "
        f"{estimate.generations} generations, {estimate.candidates:,} candidates that keep "
        f"{TYPICAL_SHARE:.0%} of the units, {estimate.images:,} search images; one image takes "
        f"{1000 * estimate.full_image:.2f} ms, cut {1000 * estimate.cut_image:.2f} ms, with what "
        "else this machine does now."
    )


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)
