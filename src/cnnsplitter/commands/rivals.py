"""The baselines beside a patch, for ``patch --baselines``."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnsplitter.commands.tables import cost_of
from cnnsplitter.errors import ModelError
from cnnsplitter.terminal import Terminal

if TYPE_CHECKING:
    from torch import nn

    from cnnsplitter.class_modules import ClassModule
    from cnnsplitter.classifier import Classifier
    from cnnsplitter.data import Splits
    from cnnsplitter.patches.fitting import Fitting
    from cnnsplitter.patches.patching import PatchedModel


@dataclass(frozen=True, eq=False)
class Rivals:
    """How the baselines are made.

    Attributes:
        strong: The strong model; without it there are only those that retrain the weak one.
        seed: Of all that is random.
        terminal: Is told which baselines cannot be made.
    """

    strong: "Classifier | None"
    seed: int
    terminal: Terminal

    def rows(
        self, weak: "Classifier", patched: "PatchedModel", images: "Splits", fitting: "Fitting"
    ) -> list[dict[str, Any]]:
        """Return one row per method and patched class, the patch's own first."""
        from cnnsplitter.evaluation import compare

        rows: list[dict[str, Any]] = []
        before = patched.unpatched()
        for method, model in self._models(weak, patched, images, fitting):
            found = compare(before, model, images.test, patched.targets).rows()
            cost = cost_of(model, images.input_shape)
            rows += [
                {"method": method, **row, "multiply_adds": cost.multiply_adds} for row in found
            ]
        return rows

    def _models(
        self, weak: "Classifier", patched: "PatchedModel", images: "Splits", fitting: "Fitting"
    ) -> "Iterator[tuple[str, nn.Module]]":
        from cnnsplitter.patches import baselines
        from cnnsplitter.patches.patching import patch

        yield "patch", patched
        modules = {part.target: part.module for part in patched.patches}
        rivals: dict[str, Mapping[str, ClassModule]] = {}
        if self.strong is None:
            self.terminal.note("no baselines 'whole strong' and 'random': they need --strong")
        else:
            rivals["whole strong"] = baselines.whole_strong(self.strong, modules)
            rivals["random"] = baselines.random_modules(self.strong, modules, self.seed)
        for name, others in rivals.items():
            yield name, patch(weak, others, images, **vars(fitting))
        added = [name for name in images.classes if name not in weak.classes]
        if added:
            self.terminal.note(
                "no baselines 'last layer' and 'fine-tuned': the weak model has no output for "
                f"{', '.join(added)}"
            )
            return
        try:
            last = baselines.retrain_last_layer(weak, images.calibration)
        except ModelError as error:
            self.terminal.note(f"no baseline 'last layer': {error}")
        else:
            yield "last layer", last
        yield "fine-tuned", baselines.fine_tune(weak, images, seed=self.seed)


def show_rivals(rows: Sequence[Mapping[str, Any]], terminal: Terminal) -> None:
    """Print the baselines, with the change of each figure in points."""
    figures = ("precision", "recall", "f1", "other")
    terminal.table(
        "Beside other ways to use the same images (test images; changes in points)",
        [
            {"method": row["method"], "class": row["target"]}
            | {name: f"{100 * row[f'{name}_change']:+.1f}" for name in figures}
            | {"multiply-adds": row["multiply_adds"]}
            for row in rows
        ],
    )
