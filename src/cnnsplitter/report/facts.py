"""All that a run's report tells, as JSON values: the page is made from these alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cnnsplitter.errors import SettingsError, StorageError
from cnnsplitter.report.evidence import Evidence, require_table
from cnnsplitter.results import Row, read_json

FIGURES = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "other": "accuracy on the other classes",
}
"""What rows of patches tell, before and after, and what it is called."""
_TIMES = ("before", "after")


class Step(BaseModel):
    """One step of a search; see ``search.Generation``."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    accuracy: float
    difference: float
    kept: float
    measure: float
    early: bool = False
    kept_macs: float | None = None


def returned_step(history: Sequence[Step]) -> int:
    """Return the position of the step whose class modules a search returned.

    It is the first of the highest measure; steps that saw a part of the images do not compare.
    """
    whole = [i for i, step in enumerate(history) if not step.early] or range(len(history))
    return max(whole, key=lambda i: history[i].measure)


class Report(BaseModel):
    """What a run found; of a patch alone, what is told of class modules is empty.

    Attributes:
        title: Of the recipe.
        strong_model: Name of the strong model, such as ``"rescnn"``.
        weak_model: Name of the weak models; empty if there are none.
        data: One row per data set: whose it is, its source, and how many images serve what.
        strong_accuracy: On the strong model's test images.
        composed_accuracy: Of the class modules side by side, or of the sub-task's network, on the
            same images.
        classes: Of the strong model; of a sub-task, which is searched as one class, its name.
        subtask: The classes of a sub-task that one network is for; else empty.
        ways: One row per way to do the sub-task, see ``FoundSubtask.rows``.
        layers: Names of the search's layers.
        kept: Share of each layer's kernels that each class module keeps, [classes][layers].
        modules: One row per class module, see ``Split.rows``.
        overlap: Jaccard index of the kernels, [classes][classes].
        history: The steps of the search.
        sensitivity: See ``Sensitivity.to_json``; None if it was not measured.
        start_ratios: Layer to the keep-ratios that the search started from, if it starts from any.
        patches: One row per patch, see ``Comparison.rows``; none of a mere split.
        evidence: What each patch did.
        costs: One row per model.
        recipe: All settings, the seed among them.
        search: Name and settings of the search, those that are defaults, too.
        machine: See ``results.machine``.
        versions: See ``results.versions``.
        commands: What repeats the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    strong_model: str = ""
    weak_model: str = ""
    data: list[Row] = Field(default_factory=list)
    strong_accuracy: float | None = None
    composed_accuracy: float | None = None
    classes: list[str] = Field(default_factory=list)
    subtask: list[str] = Field(default_factory=list)
    ways: list[Row] = Field(default_factory=list)
    layers: list[str] = Field(default_factory=list)
    kept: list[list[float]] = Field(default_factory=list)
    modules: list[Row] = Field(default_factory=list)
    overlap: list[list[float]] = Field(default_factory=list)
    history: list[Step] = Field(default_factory=list)
    sensitivity: dict[str, Any] | None = None
    start_ratios: dict[str, list[float]] = Field(default_factory=dict)
    patches: list[Row]
    evidence: list[Evidence]
    costs: list[Row]
    recipe: dict[str, Any]
    search: dict[str, Any] = Field(default_factory=dict)
    machine: dict[str, str | int]
    versions: dict[str, str]
    commands: list[str]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require_table("kept", self.kept, len(self.classes), len(self.layers))
        require_table("overlap", self.overlap, len(self.classes), len(self.classes))
        about_modules = self.modules or self.layers or self.history
        if not self.classes and (about_modules or not self.patches):
            raise ValueError("classes: there are none")
        if self.classes and not self.layers:
            raise ValueError("layers: there are none")
        if self.classes and None in (self.strong_accuracy, self.composed_accuracy):
            raise ValueError("strong_accuracy and composed_accuracy: one is missing")
        for row in self.patches:
            wanted = [f"{name}_{when}" for name in FIGURES for when in ("before", "after")]
            if (
                not all(isinstance(row.get(name), int | float) for name in wanted)
                or "target" not in row
            ):
                raise ValueError("patches: a figure is missing")
        if len(self.evidence) != len(self.patches):
            raise ValueError("evidence: must tell of each patch")
        return self


def find_reports(folder: Path) -> dict[str, Report]:
    """Read the report of a run or a split, or those of all splits of a front, by their folders.

    Raises:
        SettingsError: There is none.
        StorageError: A file that holds something else.
    """
    front = folder / "pareto.json"
    if not front.exists():
        return {str(folder): _finished(folder)}
    try:
        names = [Path(point["folder"]).name for point in read_json(front)["points"]]
        if not names:
            raise LookupError("there are no points")
    except (LookupError, TypeError) as error:
        raise StorageError(f"{front}: is no front of a split; run it again with --force") from error
    return {str(folder / name): _finished(folder / name) for name in names}


def _finished(folder: Path) -> Report:
    if not (folder / "report.json").exists():
        raise SettingsError(
            f"{folder}: holds no finished run; go on with it by the command that began it, or "
            "see what there is: cnnsplitter runs"
        )
    return read_report(folder / "report.json")


def read_report(path: Path) -> Report:
    """Read the facts of a finished run; ``StorageError`` if the file holds something else."""
    value = read_json(path)
    try:
        return Report.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise StorageError(
            f"{path}: is no report of this version (at {place or first['msg']!r}); run it again "
            "with --force"
        ) from error
