"""The command that finds what a weak model is poor at, and what would help."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    builder,
    load_model,
    open_fitting_data,
)
from cnnsplitter.errors import SettingsError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.patches.diagnosis import ClassFinding
    from cnnsplitter.patches.guard import Verdict
    from cnnsplitter.storage.unpacking import Builder


def diagnose(
    context: typer.Context,
    weak: Annotated[Path, typer.Argument(help="The weak model, saved by this package.")],
    data: Data,
    modules: Annotated[
        Path | None, typer.Option(help="Folder of class modules to try on held-out images.")
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
) -> None:
    """Show what a weak model is poor at, and which patches help.

    It is looked at on calibration images. Class modules are tried on them, too, each by a fit that
    has not seen the image.
    """
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.patches.diagnosis import diagnose as examine
    from cnnsplitter.patches.diagnosis import try_modules

    terminal = Terminal(json, quiet)
    build = builder(context)
    model = load_model(Classifier, weak, build)
    parts, skipped = ({}, {}) if modules is None else _load_folder(modules, build)
    with terminal:
        images = open_fitting_data(context, terminal, {weak: model})
        findings = examine(model, images.test if test else images.calibration)
        fitting = {name: part for name, part in parts.items() if name in images.classes}
        verdicts, refused = try_modules(model, fitting, images)
    refused |= dict.fromkeys(parts.keys() - fitting.keys(), "no such class in the data")
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


def _load_folder(
    folder: Path, build: "Builder | None"
) -> "tuple[dict[str, ClassModule], dict[str, str]]":
    """Load all class modules of a folder, by their classes; say why other files are left out."""
    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.errors import StorageError
    from cnnsplitter.storage.saving import describe

    found: dict[str, ClassModule] = {}
    files: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        try:
            manifest = describe(path)
        except StorageError as error:
            skipped[path.name] = str(error)
            continue
        if manifest["kind"] != "class-module":
            skipped[path.name] = f"it holds a model of the kind {manifest['kind']}"
            continue
        module = load_model(ClassModule, path, build)
        name = module.source_class
        if name in found:
            raise SettingsError(
                f"{folder}: {files[name].name} and {path.name} are both class modules of "
                f"{name!r}; keep one there"
            )
        found[name], files[name] = module, path
    if not found:
        raise SettingsError(f"{folder}: no class modules there; split a strong model into it")
    return found, skipped


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
