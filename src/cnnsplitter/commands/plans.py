"""``--dry-run``: how a plan is shown, and the plan of ``split``."""

from typing import TYPE_CHECKING

import typer

from cnnsplitter.commands.fronts import chosen_shares, folder_of
from cnnsplitter.commands.options import (
    builder,
    load_model,
    open_fitting_data,
    require_free,
    require_test_images,
    tracing,
)
from cnnsplitter.commands.searches import chosen_search
from cnnsplitter.terminal import Terminal, duration

if TYPE_CHECKING:
    from cnnsplitter.planning import Plan

_GIGABYTE = 1e9


def show_plan(plan: "Plan", terminal: Terminal) -> None:
    """Print a plan."""
    terminal.table("Images", plan.images)
    terminal.table("Networks, before any cut", plan.networks)
    terminal.table("Layers of the search", plan.layers)
    if plan.genes is not None:
        terminal.line(f"{plan.genes:,} genes, each of which switches some units of one layer.")
    elif plan.layers:
        terminal.line(f"{plan.units:,} units, each of which a class module keeps or drops.")
    steps = [
        {**step, "seconds": None if step["seconds"] is None else duration(float(step["seconds"]))}
        for step in plan.steps
    ]
    terminal.table("Steps, with the time that this machine needs as it is now", steps)
    if not plan.steps:
        terminal.line("Nothing is left to do.")
    told = all(step["seconds"] is not None for step in plan.steps)
    time = duration(plan.seconds) + ("" if told else " and what has no time")
    terminal.line(f"About {time}; roughly {plan.memory / _GIGABYTE:.1f} GB of memory.")
    terminal.line(f"Would write to {', '.join(map(str, plan.writes))}. Nothing was written.")
    terminal.result(plan.to_json())


def dry_split(context: typer.Context, terminal: Terminal) -> None:
    """Show what ``split`` would do with the same options; its mistakes are told, too."""
    options = context.params
    out, shares = options["out"], options["pareto"] and chosen_shares(options)
    folders = [folder_of(out, share) for share in shares] if shares else [out]
    for folder in folders:
        require_free(folder / "split.json", options["force"])
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.planning import plan_split

    search = chosen_search(context)
    strong = load_model(Classifier, options["strong"], builder(context))
    with terminal:
        data = open_fitting_data(context, terminal, {options["strong"]: strong})
        require_test_images(data)
        plan = plan_split(
            strong,
            data,
            search,
            options["search_images"],
            folders,
            **tracing(context),
            sensitivity_known=options["curves"] is not None,
            seed=options["seed"],
        )
    show_plan(plan, terminal)
