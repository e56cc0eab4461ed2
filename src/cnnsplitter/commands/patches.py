"""The commands that patch a weak model and take patches away."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnnsplitter.commands.completing import CALIBRATIONS, OBJECTIVES, RULES, one_of, zoo_models
from cnnsplitter.commands.evaluations import show_comparison
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
from cnnsplitter.commands.tables import show_costs
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.evaluation import Comparison
    from cnnsplitter.patches.combining import Observations
    from cnnsplitter.patches.cost import PatchCost
    from cnnsplitter.patches.fitting import Fitting
    from cnnsplitter.patches.patching import PatchedModel
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
    from cnnsplitter.patches.patching import observe

    terminal, build = Terminal(json, quiet, verbose=verbose), builder(context)
    fitting = Fitting(calibration, rule, objective, floor, gate)
    rivals = _rivals(baselines, strong, build, seed, terminal)
    model, known = parts_of(load_weak(weak, build))
    parts = known | load_modules(modules, build, known)
    with terminal:
        images = open_fitting_data(context, terminal, {weak: model})
    if dry_run:
        _plan(model, parts, images, out, fitting, terminal)
        return
    require_test_images(images)
    with terminal:
        seen = observe(model, parts, images.calibration)
    guard = _guarded(seen, fitting, terminal)
    kept = {name: parts[name] for name in parts if force_patch or guard[name]["kept"]}
    _require_some(kept, guard, terminal)
    with terminal:
        attached = _attach(model, kept, images, seen, fitting, latency or report is not None)
        _save(context, attached, guard)
        if report:
            _write_report(context, attached, guard, fitting)
        if calibration == "auto":
            terminal.line(f"Calibration: {attached.model.calibrations[0].kind}.")
        rows = rivals.rows(model, attached.model, attached.images, fitting) if rivals else []
    _tell(attached, out, {"patched": list(kept), "guard": guard, "baselines": rows}, terminal)


def _plan(
    model: "Classifier",
    modules: "Mapping[str, ClassModule]",
    images: "Splits",
    out: Path,
    fitting: "Fitting",
    terminal: Terminal,
) -> None:
    from cnnsplitter.planning import plan_patch

    require_test_images(images)
    show_plan(plan_patch(model, modules, images, out, fitting), terminal)


def _save(context: typer.Context, attached: "_Attached", guard: dict[str, Any]) -> None:
    from cnnsplitter.storage.saving import save

    options = context.params
    known = {name: options[name] for name in ("seed", "data")}
    made = details(**known, weak=options["weak"].name, guard=guard, **attached.details())
    save(attached.model, options["out"], details=made, overwrite=options["force"])


def _write_report(
    context: typer.Context, attached: "_Attached", guard: dict[str, Any], fitting: "Fitting"
) -> None:
    from cnnsplitter.report import report_patches
    from cnnsplitter.report.page import write_page

    options, shares = context.params, attached.cost.run_share
    shown = {True: "kept", False: "not kept"}
    rows = [
        {
            **row,
            "method": attached.model.method,
            "guard": shown[guard[str(row["target"])]["kept"]],
            "run_share": shares[str(row["target"])],
        }
        for row in attached.comparison.rows()
    ]
    told = {name: options[name] for name in ("seed", "data")} | vars(fitting)
    settings = {"weak": options["weak"].name, "patches": options["modules"], **told}
    found = report_patches(attached.model, attached.images, rows, attached.cost.rows(), settings)
    write_page(options["report"], {found.title: found})


def _tell(attached: "_Attached", out: Path, found: dict[str, Any], terminal: Terminal) -> None:
    _show(attached, terminal)
    show_rivals(found["baselines"], terminal)
    terminal.line(f"Written to {out}")
    terminal.result({"file": str(out)} | found | attached.to_json())


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


def _guarded(
    seen: "Observations", fitting: "Fitting", terminal: Terminal
) -> dict[str, dict[str, Any]]:
    """Judge the patches, tell the verdicts, and return them with whether each is kept."""
    from cnnsplitter.patches.guard import judge_observed

    with terminal:
        judgement = judge_observed(fitting, seen)
    for verdict in judgement.verdicts.values():
        terminal.line(str(verdict))
    return {
        name: {**verdict.to_json(), "kept": name in judgement.kept}
        for name, verdict in judgement.verdicts.items()
    }


def _require_some(
    kept: "Mapping[str, ClassModule]", guard: dict[str, dict[str, Any]], terminal: Terminal
) -> None:
    if kept:
        return
    terminal.line("No patch is shown to help; nothing is written (--force-patch writes it).")
    terminal.result({"file": None, "patched": [], "guard": guard})
    raise typer.Exit(NO_PATCH_HELPS)


@dataclass(frozen=True, eq=False)
class _Attached:
    model: "PatchedModel"
    images: "Splits"
    comparison: "Comparison"
    cost: "PatchCost"

    def details(self) -> dict[str, Any]:
        """Return what is kept with the model."""
        return {"metrics": self.comparison.rows(), "run_share": dict(self.cost.run_share)}

    def to_json(self) -> dict[str, Any]:
        """Return figures, costs and the share of images that each class module runs on."""
        cost = {name: vars(cost) for name, cost in self.cost.models.items()}
        facts = {"run_share": dict(self.cost.run_share), "images_at_once": self.cost.images_at_once}
        facts["calibration"] = [calibration.kind for calibration in self.model.calibrations]
        return {"cost": cost, **facts, **self.comparison.to_json()}


def _attach(
    model: "Classifier",
    modules: "Mapping[str, ClassModule]",
    images: "Splits",
    seen: "Observations",
    fitting: "Fitting",
    latency: bool,
) -> _Attached:
    from cnnsplitter.evaluation import compare
    from cnnsplitter.patches.cost import measure_patch_cost
    from cnnsplitter.patches.patching import attach, known_classes, observe

    known = known_classes(model, modules, images.classes)
    if known == images.classes:
        seen = seen.only([seen.layout.targets.index(target) for target in modules])
    else:  # The class that a patch left out would have added is no class of the result.
        images = images.relabel(known)
        seen = observe(model, modules, images.calibration)
    patched = attach(model, modules, seen, fitting)
    comparison = compare(patched.unpatched(), patched, images.test)
    cost = measure_patch_cost(patched, images.test, latency=latency)
    return _Attached(patched, images, comparison, cost)


def _show(attached: _Attached, terminal: Terminal) -> None:
    show_comparison(attached.comparison, terminal)
    show_costs(attached.cost.models, terminal, attached.cost.images_at_once)
    if "gated" in attached.cost.models:
        shares = attached.cost.run_share.items()
        runs = ", ".join(f"{name} on {share:.0%}" for name, share in shares)
        terminal.line(
            f"Gates run the class modules of {runs} of the test images: "
            f"{attached.cost.patch_share:.0%} of the multiply-adds of the ungated patch."
        )


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
