"""The command that splits a strong model: ``split``."""

from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands import tuning
from cnnsplitter.commands.completing import IMPORTANCES, SEARCHES, TARGETS, one_of, presets
from cnnsplitter.commands.curves import Strong, read_curves
from cnnsplitter.commands.fronts import split_front
from cnnsplitter.commands.options import (
    Channels,
    Data,
    DryRun,
    EngineName,
    Force,
    FreezeUnknown,
    Generations,
    Json,
    ModelArguments,
    OutFolder,
    Population,
    Quiet,
    RayAddress,
    Rebuild,
    Root,
    SearchImages,
    Seed,
    Settings,
    Size,
    ToMLflow,
    ToTensorBoard,
    UnitsName,
    Verbose,
    Workers,
    builder,
    details,
    listeners,
    load_model,
    open_fitting_data,
    require_folder,
    require_free,
    require_test_images,
    tracing,
)
from cnnsplitter.commands.plans import dry_split
from cnnsplitter.commands.searches import chosen_search, described, read_start
from cnnsplitter.commands.subtasks import dry_subtask, split_subtask
from cnnsplitter.commands.tables import show_split
from cnnsplitter.errors import SettingsError
from cnnsplitter.folder_lock import held
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.report import Report
    from cnnsplitter.search.registry import AnySearch
    from cnnsplitter.splitting import Split

SearchName = Annotated[
    str | None,
    typer.Option(
        "--search",
        help=f"How: {', '.join(SEARCHES)}; gradient unless an option of the genetic one is given.",
        autocompletion=one_of(*SEARCHES),
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(help="A published configuration, such as simcnn-cifar10.", autocompletion=presets),
]
SubtaskClasses = Annotated[
    str | None,
    typer.Option("--subtask", help="One network for these classes, with commas between them."),
]
CompareSubtask = Annotated[
    bool | None,
    typer.Option(
        "--compare/--no-compare",
        help="Compare a sub-task with separate class modules, as is done by default.",
    ),
]
Compensate = Annotated[
    bool | None,
    typer.Option(
        "--compensate/--no-compensate",
        help="What is kept takes over what was cut, in closed form; by default after a gradient "
        "search of class modules.",
    ),
]
Recalibrate = Annotated[
    bool, typer.Option("--recalibrate", help="Measure the batch norms' statistics again.")
]
FinetuneEpochs = Annotated[
    int | None, typer.Option(min=1, help="Fine-tune class modules for so many epochs.")
]
FinetuneImages = Annotated[
    int | None, typer.Option(min=2, help="Most training images that fine-tuning uses: 6000.")
]
FinetuneRate = Annotated[
    float | None,
    typer.Option(
        help="Learning rate that fine-tuning begins with: 0.001 with batch norms, without them by "
        "a short trial."
    ),
]
Keep = Annotated[
    float | None, typer.Option(help="Share of the kernels, or of --target, that is kept.")
]
Target = Annotated[
    str | None,
    typer.Option(
        help="What --keep is a share of: kernels or multiply-adds.",
        autocompletion=one_of(*TARGETS),
    ),
]
Pareto = Annotated[
    str | None,
    typer.Option(help="Split once for each of these shares instead of --keep, and plot them."),
]
Start = Annotated[
    Path | None,
    typer.Option(help="Folder of an earlier split, near which the genetic search begins."),
]
ImportanceName = Annotated[
    str,
    typer.Option(
        "--importance",
        help="How units are ranked: feature-maps or taylor.",
        autocompletion=one_of(*IMPORTANCES),
    ),
]
Curves = Annotated[
    Path | None, typer.Option("--sensitivity", help="Curves measured by `sensitivity`.")
]


def split(
    context: typer.Context,
    strong: Strong,
    data: Data,
    out: OutFolder,
    search: SearchName = None,
    preset: Preset = None,
    keep: Keep = None,
    target: Target = None,
    tries: Annotated[int | None, typer.Option(help="Ensembles drawn; the best counts.")] = None,
    population: Population = None,
    generations: Generations = None,
    size_weight: Annotated[float | None, typer.Option(help="Weight of small modules.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many without a gain.")] = None,
    importance: ImportanceName = "feature-maps",
    pareto: Pareto = None,
    start: Start = None,
    curves: Curves = None,
    search_images: SearchImages = None,
    engine: EngineName = "local",
    workers: Workers = None,
    ray_address: RayAddress = None,
    tensorboard: ToTensorBoard = False,
    mlflow: ToMLflow = False,
    compensate: Compensate = None,
    recalibrate: Recalibrate = False,
    finetune_epochs: FinetuneEpochs = None,
    finetune_images: FinetuneImages = None,
    finetune_rate: FinetuneRate = None,
    subtask: SubtaskClasses = None,
    compare: CompareSubtask = None,
    units: UnitsName = "conv",
    freeze_unknown: FreezeUnknown = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    seed: Seed = 0,
    settings: Settings = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Split a strong model into class modules. Run it again to go on after a stop.

    The settings file may have a table named after the search with what has no option, such as
    mutation in [genetic].
    """
    _require_use(context)
    terminal = Terminal(json, quiet, verbose=verbose)
    if dry_run:
        (dry_split if subtask is None else dry_subtask)(context, terminal)
        return
    require_folder(out)
    with held(out):
        _split(context, terminal)


def _split(context: typer.Context, terminal: Terminal) -> None:
    """Split in one of the three ways: into a sub-task, at several budgets, or at one."""
    options, split_classes = context.params, partial(_split_classes, context, terminal)
    if options["subtask"] is not None:
        split_subtask(context)
    elif options["pareto"] is not None:
        split_front(context, terminal, split_classes)
    else:
        terminal.result(split_classes(options["out"], chosen_search(context)))


def _require_use(context: typer.Context) -> None:
    """Raise ``SettingsError`` for an option that nothing would use."""
    options = context.params
    tuning = {f"finetune_{name}": "finetune_epochs" for name in ("images", "rate")}
    for key, needed in {"compare": "subtask", **tuning}.items():
        if options[key] is not None and options[needed] is None:
            flag, other = (name.replace("_", "-") for name in (key, needed))
            raise SettingsError(f"--{flag} has no use without --{other}; give both or neither")
    if (rate := options["finetune_rate"]) is not None and not 0 < rate < inf:
        raise SettingsError(f"--finetune-rate must be above 0, not {rate:g}")


def _split_classes(
    context: typer.Context, terminal: Terminal, out: Path, search: "AnySearch"
) -> dict[str, Any]:
    """Write class modules to the folder ``out`` and return their figures."""
    options = context.params
    strong, seed = options["strong"], options["seed"]
    require_free(out / "split.json", options["force"])
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.engines import choose_engine
    from cnnsplitter.report import report_split
    from cnnsplitter.splitting import split as find

    runs_on = choose_engine(options["engine"], options["workers"], options["ray_address"])
    boards = {name: options[name] for name in ("tensorboard", "mlflow")}
    progress, _ = listeners(terminal, out, **boards)
    model = load_model(Classifier, strong, builder(context))
    curves = options["curves"]
    measured = None if curves is None else read_curves(context, curves, model)
    start, near = None, options["start"]
    if near is not None:
        start = read_start(near, model, builder(context))
    checkpoint = out / "search.checkpoint"
    _require_free_modules(model, out, options["force"] or checkpoint.exists())
    with terminal:
        images = open_fitting_data(context, terminal, {strong: model})
        require_test_images(images)
        found = find(
            model,
            images,
            search=search,
            seed=seed,
            importance=options["importance"],
            compensate=False,
            sensitivity=measured,
            start=start,
            search_images=options["search_images"],
            **tracing(context),
            checkpoint=checkpoint,
            engine=runs_on,
            progress=progress,
        )
        found, result = _tuned(context, search, found, model, images, terminal)
    kept = details(
        seed=seed,
        data=options["data"],
        strong=strong.name,
        search=described(context, search),
        tuning=result.get("tuning"),
    )
    report = report_split(found, model, images, search, result, kept)
    _finish_split(found, result, out, terminal, kept, report)
    checkpoint.unlink(missing_ok=True)
    return result


def _tuned(
    context: typer.Context,
    search: "AnySearch",
    found: "Split",
    strong: "Classifier",
    images: "Splits",
    terminal: Terminal,
) -> "tuple[Split, dict[str, Any]]":
    """Return class modules after all tuning, and their figures."""
    from cnnsplitter.class_modules import compose as put_together
    from cnnsplitter.search import compensates

    result = _evaluate_split(strong, found, images)
    wanted = tuning.chosen(context, compensates(search))
    if not wanted:
        return found, result
    modules, stages = tuning.tune(context, wanted, found, put_together, strong, images, terminal)
    found, plain = replace(found, modules=modules), result["composed_accuracy"]
    more = {"plain_composed_accuracy": plain, "tuning": stages}
    return found, _evaluate_split(strong, found, images) | more


def _require_free_modules(strong: "Classifier", out: Path, force: bool) -> None:
    from cnnsplitter.run_folder import file_name

    for name in strong.classes:
        require_free(out / f"{file_name(name)}.safetensors", force)


def _evaluate_split(strong: "Classifier", found: "Split", images: "Splits") -> dict[str, Any]:
    """Return the figures of class modules and of the strong model."""
    from cnnsplitter.class_modules import compose as put_together
    from cnnsplitter.evaluation import evaluate

    models = {"strong_accuracy": strong, "composed_accuracy": put_together(found)}
    accuracy = {name: evaluate(model, images.test).accuracy for name, model in models.items()}
    return {**accuracy, "modules": found.rows(strong), "overlap": found.overlap().tolist()}


def _finish_split(
    found: "Split",
    result: dict[str, Any],
    out: Path,
    terminal: Terminal,
    kept: dict[str, Any],
    report: "Report",
) -> None:
    """Save and show new class modules."""
    from cnnsplitter.pipeline import save_modules
    from cnnsplitter.report.page import write_report
    from cnnsplitter.results import write_json

    metrics = {name: figure for name, figure in result.items() if name.endswith("_accuracy")}
    result["files"] = save_modules(found, out, kept | {"metrics": metrics})
    write_report(out, report)
    write_json(out / "split.json", result)
    show_split(result, terminal)
    terminal.line(f"Written to {out}; to look at: {out / 'report.html'}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(split)
