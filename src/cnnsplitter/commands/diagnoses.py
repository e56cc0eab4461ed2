"""The command that finds what a weak model is poor at, and what would help."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cnnsplitter.commands.loading import gather_modules, load_weak, parts_of
from cnnsplitter.commands.options import (
    Channels,
    Data,
    Json,
    ModelArguments,
    Quiet,
    Rebuild,
    Root,
    Seed,
    Settings,
    Size,
    Verbose,
    builder,
    open_fitting_data,
)
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.patches.diagnosis import ClassFinding
    from cnnsplitter.patches.guard import Verdict
    from cnnsplitter.patches.patching import PatchedModel


def diagnose(
    context: typer.Context,
    weak: Annotated[
        Path,
        typer.Argument(help="The weak model; class modules join those of a patched one, refitted."),
    ],
    data: Data,
    modules: Annotated[
        list[str] | None,
        typer.Option(
            help="Class modules to try on held-out images: a folder, a file, or CLASS=FILE; "
            "repeatable."
        ),
    ] = None,
    test: Annotated[
        bool,
        typer.Option("--test", help="Look at the test images instead of the calibration images."),
    ] = False,
    size: Size = None,
    channels: Channels = None,
    root: Root = None,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    seed: Seed = 0,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show what a weak model is poor at, and which patches help.

    It is looked at on calibration images. Class modules are tried on them, too, by the calibration
    that patch has by default, each by a fit that has not seen the image.
    """
    from cnnsplitter.patches.diagnosis import diagnose as examine

    terminal = Terminal(json, quiet, verbose=verbose)
    build = builder(context)
    model = load_weak(weak, build)
    parts, skipped = gather_modules(modules or (), build)
    with terminal:
        images = open_fitting_data(context, terminal, {weak: model})
        findings = examine(model, images.test if test else images.calibration)
        verdicts, refused = _tried(model, parts, images)
    if parts_of(model)[1] and not test:
        terminal.note("patched classes may look too good: their patches know these images")
    refused |= skipped
    _show_findings(findings, "test" if test else "calibration", terminal)
    _show_verdicts(verdicts, refused, terminal)
    terminal.result(
        {
            "images": "test" if test else "calibration",
            "classes": [finding.to_json() for finding in findings],
            "modules": [verdict.to_json() for verdict in verdicts],
            "not_tried": refused,
        }
    )


def _tried(
    model: "Classifier | PatchedModel", parts: "Mapping[str, ClassModule]", images: "Splits"
) -> "tuple[list[Verdict], dict[str, str]]":
    """Judge class modules; return the verdicts, and by class why others could not be tried."""
    from cnnsplitter.patches.diagnosis import try_modules

    weak, known = parts_of(model)
    new = {name: part for name, part in parts.items() if name not in known}
    fitting = {name: part for name, part in new.items() if name in images.classes}
    verdicts, refused = try_modules(weak, fitting, images, known=known)
    refused |= dict.fromkeys(new.keys() - fitting.keys(), "no such class in the data")
    refused |= dict.fromkeys(parts.keys() & known.keys(), "the class is patched already; unpatch")
    return verdicts, refused


def _show_findings(findings: "Sequence[ClassFinding]", images: str, terminal: Terminal) -> None:
    terminal.table(
        f"Classes on the {images} images, in %, with what holds the true figure with 95 %",
        [
            {
                "class": f"{finding.name} (poor)" if finding.is_poor else finding.name,
                "images": finding.images,
                "precision": str(finding.precision),
                "recall": str(finding.recall),
                "F1": str(finding.f1),
                "taken for": _listed(finding.missed),
                "mistaken for it": _listed(finding.alarms),
            }
            for finding in findings
        ],
    )
    poor = [finding for finding in findings if finding.is_poor]
    for finding in poor:
        terminal.line(
            f"{finding.name}: surely below the mean F1; a patch could add at most "
            f"{100 * finding.gain:.1f} points."
        )
    if not poor:
        terminal.line("No class is surely below the mean F1.")


def _show_verdicts(
    verdicts: "Sequence[Verdict]", refused: dict[str, str], terminal: Terminal
) -> None:
    for verdict in verdicts:
        terminal.line(str(verdict))
    for name, reason in refused.items():
        terminal.line(f"class module of {name!r} was not tried: {reason}")


def _listed(pairs: tuple[tuple[str, int], ...]) -> str:
    return ", ".join(f"{name} {count}" for name, count in pairs)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(diagnose)
