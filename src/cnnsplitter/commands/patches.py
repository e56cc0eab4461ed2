"""The commands that patch a weak model and take patches away."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.attaching import attach_modules, save_attached, show_attached
from cnnsplitter.commands.completing import CALIBRATIONS, OBJECTIVES, RULES, one_of, zoo_models
from cnnsplitter.commands.loading import load_modules, load_weak, parts_of
from cnnsplitter.commands.options import (
    Channels,
    Data,
    DryRun,
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
    Verbose,
    builder,
    details,
    load_model,
    open_fitting_data,
    require_free,
    require_test_images,
)
from cnnsplitter.commands.plans import show_plan
from cnnsplitter.commands.rivals import Rivals, show_rivals
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.patches.combining import Observations
    from cnnsplitter.patches.fitting import Fitting
    from cnnsplitter.storage.unpacking import Builder


Weak = Annotated[
    Path, typer.Argument(help="The weak model; a patched one keeps its class modules, fitted anew.")
]
Calibration = Annotated[
    str,
    typer.Option(
        help="learned, temperature, isotonic; linear: the re-test's; auto: learned, or linear for "
        "a single patch where held-out images favour it; or the paper's: min-max, percentile, "
        "outlier, z-score.",
        autocompletion=one_of(*CALIBRATIONS),
    ),
]
Rule = Annotated[
    str | None,
    typer.Option(
        help="replace (the paper's) or renormalise; follows from the calibration.",
        autocompletion=one_of(*RULES),
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        help="What the bias is set for: likelihood, f1, recall or precision.",
        autocompletion=one_of(*OBJECTIVES),
    ),
]
Floor = Annotated[
    float,
    typer.Option(
        help="Least change of the accuracy on the other classes; -0.01 is one point. Only learned "
        "and temperature are fitted to it; other patches are only judged by it."
    ),
]
Gate = Annotated[
    float | None,
    typer.Option(
        help="Run class modules only where the weak model is in doubt; share of the gain in F1 "
        "that this must keep, such as 0.95."
    ),
]
ForcePatch = Annotated[
    bool, typer.Option("--force-patch", help="Write patches that are not shown to help, too.")
]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines", help="Compare with retraining on the same images and, with --strong, more."
    ),
]
ReportPage = Annotated[
    Path | None,
    typer.Option("--report", help="HTML page to write with the evidence, for a browser."),
]
Strong = Annotated[
    Path | None,
    typer.Option(help="The strong model, for the baselines: whole, and cut at random."),
]
With = Annotated[
    list[str],
    typer.Option(
        "--with",
        help="Class module; CLASS=FILE if the weak model names the class otherwise.",
        autocompletion=zoo_models,
    ),
]
NO_PATCH_HELPS = 3
"""The exit code where no patch is shown to help and nothing is written."""


def patch(
    context: typer.Context,
    weak: Weak,
    modules: With,
    data: Data,
    out: Out,
    calibration: Calibration = "learned",
    rule: Rule = None,
    objective: Objective = "likelihood",
    floor: Floor = -0.01,
    gate: Gate = None,
    force_patch: ForcePatch = False,
    baselines: Baselines = False,
    strong: Strong = None,
    latency: Latency = False,
    report: ReportPage = None,
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
    """Attach class modules to a weak model, and show the change.

    A patch is kept only if held-out calibration images say that it helps; where none does,
    nothing is written and the exit code is 3.
    """
    for path in (out, *([report] if report else [])):
        require_free(path, force)
    from cnnsplitter.patches.fitting import Fitting

    terminal, build = Terminal(json, quiet, verbose=verbose), builder(context)
    fitting = Fitting(calibration, rule, objective, floor, gate)
    rivals = _rivals(baselines, strong, build, seed, terminal)
    model, known = parts_of(load_weak(weak, build))
    parts = known | load_modules(modules, build, known)
    with terminal:
        images = open_fitting_data(context, terminal, {weak: model})
    require_test_images(images)
    if dry_run:
        _plan(model, parts, images, out, fitting, terminal)
        return
    seen, guard = _judged(model, parts, images, fitting, terminal)
    kept = _kept(parts, guard, force_patch, terminal)
    with terminal:
        timed = latency or bool(report)
        attached = attach_modules(model, kept, images, seen, fitting, guard, timed)
        save_attached(attached, context.params)
        rows = rivals.rows(model, attached.model, attached.images, fitting) if rivals else []
    show_attached(attached, terminal)
    show_rivals(rows, terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out), "baselines": rows} | attached.to_json())


def _plan(
    model: "Classifier",
    modules: "Mapping[str, ClassModule]",
    images: "Splits",
    out: Path,
    fitting: "Fitting",
    terminal: Terminal,
) -> None:
    from cnnsplitter.planning import plan_patch

    show_plan(plan_patch(model, modules, images, out, fitting), terminal)


def _rivals(
    baselines: bool,
    strong: Path | None,
    build: "Builder | None",
    seed: int,
    terminal: Terminal,
) -> Rivals | None:
    from cnnsplitter.classifier import Classifier

    if not baselines:
        if strong:
            raise SettingsError("--strong is only used by the baselines; add --baselines")
        return None
    return Rivals(load_model(Classifier, strong, build) if strong else None, seed, terminal)


def _judged(
    model: "Classifier",
    modules: "Mapping[str, ClassModule]",
    images: "Splits",
    fitting: "Fitting",
    terminal: Terminal,
) -> tuple["Observations", dict[str, dict[str, Any]]]:
    """Run all on the calibration images, and tell per class the verdict and whether it is kept."""
    from cnnsplitter.patches.guard import judge_observed
    from cnnsplitter.patches.patching import observe

    with terminal:
        seen = observe(model, modules, images.calibration)
        judgement = judge_observed(fitting, seen)
    for verdict in judgement.verdicts.values():
        terminal.line(str(verdict))
    return seen, {
        name: {**verdict.to_json(), "kept": name in judgement.kept}
        for name, verdict in judgement.verdicts.items()
    }


def _kept(
    modules: "Mapping[str, ClassModule]",
    guard: dict[str, dict[str, Any]],
    force_patch: bool,
    terminal: Terminal,
) -> "Mapping[str, ClassModule]":
    kept = {name: modules[name] for name in modules if force_patch or guard[name]["kept"]}
    if kept:
        return kept
    terminal.line("No patch is shown to help; nothing is written (--force-patch writes it).")
    terminal.result({"file": None, "patched": [], "guard": guard})
    raise typer.Exit(NO_PATCH_HELPS)


def unpatch(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The patched model.")],
    out: Out,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", help="Class whose patch is taken away; repeatable; default all."),
    ] = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Take patches away. With none left, the file written is the weak model, bit for bit.

    What is left keeps the calibrations that were fitted with all patches in place.
    """
    require_free(out, force)
    from cnnsplitter.patches.patching import PatchedModel
    from cnnsplitter.storage.saving import describe, save

    patched = load_model(PatchedModel, file, builder(context))
    left = patched.without(*(classes or patched.targets))
    made = details(unpatched=file.name, **_known_of(left.targets, describe(file)["details"]))
    save(left if left.targets else left.weak, out, details=made, overwrite=force)
    terminal = Terminal(json)
    terminal.line(f"Patched classes left: {', '.join(left.targets) or 'none'}. Written to {out}")
    terminal.result({"file": str(out), "patched": list(left.targets)})


def _known_of(targets: tuple[str, ...], made: "Mapping[str, Any]") -> dict[str, Any]:
    """Return what is known of the patches that are left: gates look at the weak model alone."""
    return {
        key: {name: value for name, value in made[key].items() if name in targets}
        for key in ("guard", "run_share")
        if targets and isinstance(made.get(key), dict)
    }


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (patch, unpatch):
        app.command()(command)
