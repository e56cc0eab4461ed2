"""Commands for the Hugging Face hub: ``bundle``, ``push`` and ``pull``."""

from pathlib import Path
from typing import Annotated

import typer

from cnnsplitter.commands.options import (
    Force,
    Json,
    ModelArguments,
    Out,
    OutFolder,
    Rebuild,
    builder,
    require_folder,
    require_free,
)
from cnnsplitter.terminal import Terminal

Repository = Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository of the hub.")]
License = Annotated[
    str, typer.Option("--license", help="Of the weights, as the hub names it, such as mit.")
]


def bundle(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A model saved by this package.")],
    out: OutFolder,
    license: License = "unknown",
    force: Force = False,
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    json: Json = False,
) -> None:
    """Write a model and its card to a folder. It is what push sends."""
    require_folder(out)
    from cnnsplitter.hub import save_folder
    from cnnsplitter.storage.saving import describe, load

    terminal = Terminal(json)
    details = describe(model)["details"]
    title = out.name if out.name else model.stem
    save_folder(
        load(model, build=builder(context)),
        out,
        details=details,
        title=title,
        license=license,
        overwrite=force,
    )
    terminal.line(f"Written to {out}; read README.md in it, then push the folder")
    terminal.result({"folder": str(out), "files": sorted(path.name for path in out.iterdir())})


def push(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A folder made by `bundle`, or a saved model.")],
    repository: Repository,
    revision: Annotated[str | None, typer.Option(help="Branch; by default main.")] = None,
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a new repository; else the owner's default."),
    ] = None,
    license: License = "unknown",
    rebuild: Rebuild = None,
    model_arguments: ModelArguments = None,
    json: Json = False,
) -> None:
    """Send a model to the Hugging Face hub. Log in by `hf auth login` or HF_TOKEN."""
    from cnnsplitter.hub import push_to_hub

    terminal = Terminal(json)
    pushed = push_to_hub(
        source,
        repository,
        revision=revision,
        private=private,
        license=license,
        build=builder(context),
    )
    terminal.line(f"Sent {', '.join(pushed.files)} to {pushed.url} (commit {pushed.commit})")
    terminal.result(vars(pushed))


def pull(
    repository: Repository,
    out: Out,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; by default main.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Fetch a model from the Hugging Face hub. Nothing in it is run."""
    require_free(out, force)
    from cnnsplitter.hub import pull_from_hub

    terminal = Terminal(json)
    pulled = pull_from_hub(repository, out, revision=revision, overwrite=force)
    terminal.line(f"Written to {out}: {pulled.kind} (commit {pulled.commit})")
    terminal.result({"file": str(out), "commit": pulled.commit, "kind": pulled.kind})


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (bundle, push, pull):
        app.command()(command)
