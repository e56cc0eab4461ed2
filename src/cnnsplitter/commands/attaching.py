"""A weak model with the class modules that ``patch`` keeps: measured, saved and shown."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from cnnsplitter.commands.evaluations import show_comparison
from cnnsplitter.commands.options import details
from cnnsplitter.commands.tables import show_costs
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


@dataclass(frozen=True, eq=False)
class Attached:
    """A patched model with what was found of it.

    Attributes:
        model: The weak model with its patches.
        images: The splits of its data, with the classes that the patched model knows.
        comparison: Weak against patched on the test images.
        cost: Of both, and the share of the test images that each class module runs on.
        guard: Per target class, patches that are not attached included, the verdict on held-out
            calibration images and whether the patch is kept.
    """

    model: "PatchedModel"
    images: "Splits"
    comparison: "Comparison"
    cost: "PatchCost"
    guard: Mapping[str, Mapping[str, Any]]

    def details(self) -> dict[str, Any]:
        """Return what is kept with the model."""
        shares = dict(self.cost.run_share)
        return {"guard": self.guard, "metrics": self.comparison.rows(), "run_share": shares}

    def to_json(self) -> dict[str, Any]:
        """Return figures, costs and the share of images that each class module runs on."""
        cost = {name: vars(cost) for name, cost in self.cost.models.items()}
        facts = {"run_share": dict(self.cost.run_share), "images_at_once": self.cost.images_at_once}
        facts["calibration"] = [calibration.kind for calibration in self.model.calibrations]
        known = {"patched": list(self.model.targets), "guard": self.guard}
        return {**known, "cost": cost, **facts, **self.comparison.to_json()}

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per target class for the report."""
        shares, shown = self.cost.run_share, {True: "kept", False: "not kept"}
        return [
            {
                **row,
                "method": self.model.method,
                "guard": shown[self.guard[str(row["target"])]["kept"]],
                "run_share": shares[str(row["target"])],
            }
            for row in self.comparison.rows()
        ]


def attach_modules(
    model: "Classifier",
    modules: "Mapping[str, ClassModule]",
    images: "Splits",
    seen: "Observations",
    fitting: "Fitting",
    guard: Mapping[str, Mapping[str, Any]],
    latency: bool,
) -> Attached:
    """Attach the class modules, and measure what changes on the test images.

    ``seen`` may hold more class modules than are attached.
    """
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
    return Attached(patched, images, comparison, cost, guard)


def save_attached(attached: Attached, options: Mapping[str, Any]) -> None:
    """Save the model and, where one is asked for, the page; options are those of ``patch``."""
    from cnnsplitter.storage.saving import save

    known = {name: options[name] for name in ("seed", "data")}
    made = details(**known, weak=options["weak"].name, **attached.details())
    save(attached.model, options["out"], details=made, overwrite=options["force"])
    if options["report"]:
        _write_report(attached, options)


def _write_report(attached: Attached, options: Mapping[str, Any]) -> None:
    from cnnsplitter.patches.fitting import Fitting
    from cnnsplitter.report import report_patches
    from cnnsplitter.report.page import write_page

    told = ("seed", "data", *(field.name for field in fields(Fitting)))
    settings = {"weak": options["weak"].name, "patches": options["modules"]}
    settings |= {name: options[name] for name in told}
    found = report_patches(
        attached.model, attached.images, attached.rows(), attached.cost.rows(), settings
    )
    write_page(options["report"], {found.title: found})


def show_attached(attached: Attached, terminal: Terminal) -> None:
    """Print how it is calibrated, what changes, what it costs and how often gates run it."""
    terminal.line(f"Calibration: {attached.model.calibrations[0].kind}.")
    show_comparison(attached.comparison, terminal)
    show_costs(attached.cost.models, terminal, attached.cost.images_at_once)
    if "gated" in attached.cost.models:
        shares = attached.cost.run_share.items()
        runs = ", ".join(f"{name} on {share:.0%}" for name, share in shares)
        terminal.line(
            f"Gates run the class modules of {runs} of the test images: "
            f"{attached.cost.patch_share:.0%} of the multiply-adds of the ungated patch."
        )
