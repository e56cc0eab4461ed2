"""The command that writes a model to a file which runs without this package."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from cnnsplitter.commands.completing import INPUTS, one_of
from cnnsplitter.commands.options import (
    Force,
    Json,
    ModelArguments,
    Out,
    Rebuild,
    Settings,
    builder,
    given,
    require_free,
)
from cnnsplitter.commands.tables import outline_lines
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from cnnsplitter.exporting import InputType


def export(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model saved by this package.")],
    out: Out,
    input_type: Annotated[
        str,
        typer.Option(
            "--input",
            help="Type of the images: uint8, or float32 in [0, 1].",
            autocompletion=one_of(*INPUTS),
        ),
    ] = "uint8",
    tolerance: Annotated[
        float | None,
        typer.Option(min=0, help="Difference allowed, as a share of the largest score (1e-4)."),
    ] = None,
    settings: Settings = None,
    force: Force = False,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    json: Json = False,
) -> None:
    """Write a model to a file that runs without this package.

    It is .onnx, or .pt2 for PyTorch. Before the file takes its place its scores are compared with
    the model's.
    """
    require_free(out, force)
    from cnnsplitter.exporting import export as write
    from cnnsplitter.storage.saving import load

    terminal = Terminal(json)
    made = write(
        load(model, build=builder(context)),
        out,
        input_type=cast("InputType", input_type),
        overwrite=force,
        **given(tolerance=tolerance),
    )
    terminal.line(
        f"Largest difference from the model on random images: {made.difference:.2g} "
        f"(allowed: {made.allowed:.2g})."
    )
    terminal.line(f"Written to {out}")
    difference = {"difference": made.difference, "allowed": made.allowed}
    terminal.result({"file": str(out), **difference, **made.facts})


def show_export(file: Path, terminal: Terminal) -> None:
    """Show what an exported file tells about itself."""
    from cnnsplitter.exporting import describe_export

    facts = describe_export(file)
    terminal.line(f"{file}: exported {facts.get('kind')}\n")
    for line in outline_lines(facts):
        terminal.line(line)
    terminal.result(facts)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
