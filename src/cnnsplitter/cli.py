"""The command line. Commands import what they need when they run, so that ``--help`` is quick."""

import os
import sys
from typing import Annotated

import typer

from cnnsplitter import __version__
from cnnsplitter.commands import models, patches, runs, splits
from cnnsplitter.errors import CnnSplitterError

app = typer.Typer(
    name="cnnsplitter",
    help="Split a trained CNN into one small CNN per class and patch a weak CNN with them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (runs, models, splits, patches):
    module.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; an error of ours is one line on standard error and exit code 2."""
    try:
        app()
    except CnnSplitterError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
