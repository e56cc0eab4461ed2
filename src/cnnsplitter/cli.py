"""The command line. Commands import what they need when they run, so that ``--help`` is quick."""

import errno
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from cnnsplitter import __version__
from cnnsplitter.commands import (
    compositions,
    curves,
    diagnoses,
    doctor,
    evaluations,
    exports,
    hub,
    models,
    patches,
    runs,
    splits,
    zoo,
)
from cnnsplitter.errors import CnnSplitterError
from cnnsplitter.terminal import prints_apart

# The base of all errors in how a command is called; typer exports no name for it.
_UsageError: Any = typer.BadParameter.__base__
_PATHS = ("path", "file", "directory")


class OneLineErrors(TyperGroup):
    """Commands whose errors are one line on standard error and exit code 2."""

    def invoke(self, context: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except CnnSplitterError as error:
            _fail(str(error))
        except _UsageError as error:
            _fail(f"{error.format_message()} (see {error.ctx.command_path} --help)")
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # Nobody reads on: typer ends the program without a word.
            _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        except KeyboardInterrupt:
            typer.echo("stopped; run the same command again to go on", err=True)
            raise typer.Exit(130) from None


class ResultsAlone(TyperCommand):
    """A command whose standard output holds its results and nothing that a user's code prints."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        for option in self.params:
            # Older Typer gives a path to the command but leaves its text in the context.
            kind = getattr(option, "type", None)
            if getattr(kind, "name", "") in _PATHS and option.name in ctx.params:
                ctx.params[option.name] = _as_paths(ctx.params[option.name])
        with prints_apart():
            return super().invoke(ctx)


def _as_paths(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_as_paths, value))
    return Path(value) if isinstance(value, str) else value


def _fail(text: str) -> NoReturn:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    raise typer.Exit(2)


app = typer.Typer(
    name="cnnsplitter",
    cls=OneLineErrors,
    help="Split a trained CNN into one small CNN per class and patch a weak CNN with them.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    *(runs, models, doctor, evaluations, curves, splits, compositions),
    *(diagnoses, patches, exports, hub, zoo),
):
    module.register(app)
for command in app.registered_commands:
    command.cls = ResultsAlone


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
    """Run the command line."""
    # completion scripts and hints have one name for it, also after python -m cnnsplitter
    app(prog_name="cnnsplitter")
