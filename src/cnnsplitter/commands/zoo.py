"""The command that lists the models that come with this package."""

from typing import Any

import typer

from cnnsplitter.commands.options import Json
from cnnsplitter.terminal import Terminal


def zoo(json: Json = False) -> None:
    """List the small models that come with this package."""
    from cnnsplitter.zoo import PREFIX, facts

    terminal, models = Terminal(json), facts()
    terminal.table("The zoo (accuracy on test images)", [_row(name, models) for name in models])
    terminal.result({"models": [{"name": f"{PREFIX}{name}", **models[name]} for name in models]})


def _row(name: str, models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    from cnnsplitter.zoo import PREFIX

    patched = models[name].get("patched")
    by = {found["patched"]["module"]: weak for weak, found in models.items() if "patched" in found}
    what = models[name]["kind"]
    if patched:
        what = f"poor at {patched['target']}; {PREFIX}{patched['module']} patches it"
    elif name in by:
        what = f"{what} of {models[by[name]]['patched']['target']}"
    return {
        "name": f"{PREFIX}{name}",
        "what": what,
        "data": models[name].get("data"),
        "accuracy": models[name].get("test_accuracy"),
        "multiply_adds": models[name]["multiply_adds"],
        "kB": round(models[name]["bytes"] / 1000),
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(zoo)
