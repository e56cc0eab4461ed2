"""Run a recipe from training to the patch report; what is finished is not done again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ComposedModel, compose, require_same_shape
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import ImageSet, Splits
from cnnsplitter.errors import require_known
from cnnsplitter.evaluation import compare, evaluate
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import best_device
from cnnsplitter.models import build_model, build_with_factory
from cnnsplitter.patches.cost import measure_patch_cost
from cnnsplitter.patches.diagnosis import try_modules
from cnnsplitter.patches.patching import PatchedModel, patch
from cnnsplitter.progress import Progress, silent
from cnnsplitter.recipes import ModelSettings, Recipe
from cnnsplitter.report import (
    PatchFacts,
    Report,
    data_row,
    gather_evidence,
    made_by,
    model_costs,
    read_report,
    search_facts,
)
from cnnsplitter.results import Row, read_json, versions, write_json, write_results
from cnnsplitter.run_data import RunData
from cnnsplitter.run_folder import claim_folder, file_name
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import GeneticSearch, Search
from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
from cnnsplitter.splitting import IMPORTANCE_IMAGES, Split, limited, search_set, split, trace
from cnnsplitter.storage.packing import Model
from cnnsplitter.storage.saving import load_as, save
from cnnsplitter.storage.unpacking import Builder
from cnnsplitter.training import train


@dataclass(frozen=True)
class Run:
    """One recipe in one folder.

    Attributes:
        recipe: What to do.
        folder: Where everything is written.
        places: Name of a data set in the recipe to the file or folder that is to be read instead.
        progress: Called after every step.
    """

    recipe: Recipe
    folder: Path
    places: Mapping[str, str]
    progress: Progress = silent

    def prepare(self, *, force: bool = False) -> None:
        """Make the folder, or make sure that it holds the same recipe.

        Args:
            force: Remove what another run has written there; other files stay.

        Raises:
            StorageError: The folder holds another run and ``force`` is not given, or is not empty
                and holds no run.
        """
        recipe = self.recipe.model_dump(mode="json") | {"places": dict(self.places)}
        claim_folder(self.folder, recipe, force=force, completed=_completed)

    def check(self) -> None:
        """Open all data, build both networks and check targets before any long work starts.

        Raises:
            SettingsError: A setting that cannot be used.
            DataError: Images that cannot be used.
            ModelError: A network that does not fit its images.
        """
        strong = self.strong_data
        search, untrained = self.recipe.search.search, self.untrained(self.recipe.strong, strong)
        if isinstance(search, GeneticSearch) and search.start_ratios is not None:
            search.check(trace(untrained, units=self.recipe.search.units))
        for target in self.recipe.patch.targets:
            require_known("target class of the strong model", target, strong.classes)
            weak = self.weak_data(target)
            self.untrained(self.recipe.weak, weak)
            require_same_shape({"strong_data": strong.input_shape, "weak_data": weak.input_shape})

    @cached_property
    def data(self) -> RunData:
        """The images."""
        return RunData(self.recipe, self.places, self.progress)

    @property
    def strong_data(self) -> Splits:
        """The strong model's images."""
        return self.data.strong

    def weak_data(self, target: str) -> Splits:
        """The images of the weak model that is poor at ``target``."""
        return self.data.weak(target)

    @cached_property
    def strong(self) -> Classifier:
        """The strong model."""
        return self._trained("strong", self.recipe.strong, self.strong_data)

    def weak(self, target: str) -> Classifier:
        """The weak model that is poor at ``target``."""
        return self._trained(f"weak-{file_name(target)}", self.recipe.weak, self.weak_data(target))

    @cached_property
    def channels(self) -> ChannelMap:
        """The strong model's channel map."""
        return trace(self.strong, units=self.recipe.search.units)

    @cached_property
    def importance(self) -> Importance:
        """Importance of the strong model's units, on its training images."""
        path = self.folder / "importance.safetensors"
        if not path.exists():
            importance = measure_importance(
                self.strong,
                self.channels,
                limited(self.strong_data.train, IMPORTANCE_IMAGES, self.recipe.seed),
                progress=self.progress,
            )
            importance.save(path)
        return Importance.load(path, self.channels)

    @cached_property
    def search_images(self) -> ImageSet:
        """The images that score selections."""
        settings = self.recipe.search
        return search_set(
            settings.search, self.strong_data.search, settings.images, self.recipe.seed
        )

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity of the strong model's layers."""
        path = self.folder / "sensitivity.json"
        if not path.exists():
            curves = measure_sensitivity(
                CutScorer(self.strong, self.channels, self.search_images),
                self.importance,
                self.search_images.labels,
                ratios=self.recipe.search.ratios,
                progress=self.progress,
            )
            write_json(path, curves.to_json())
        return Sensitivity.from_json(read_json(path))

    @cached_property
    def split(self) -> Split:
        """The class modules, written to ``modules/``."""
        search = self.recipe.search.search
        found = split(
            self.strong,
            self.strong_data,
            search=search,
            seed=self.recipe.seed,
            importance=self.importance if _is_ranked(search) else "feature-maps",
            sensitivity=self.sensitivity if search.needs_sensitivity else None,
            search_images=self.recipe.search.images,
            units=self.recipe.search.units,
            compensate=self.recipe.search.compensates,
            checkpoint=self.folder / "search.safetensors",
            progress=self.progress,
        )
        details = {
            "seed": self.recipe.seed,
            "search": self.recipe.search.told,
            "compensated": self.recipe.search.compensates,
        }
        save_modules(found, self.folder / "modules", details)
        return found

    @cached_property
    def composed(self) -> ComposedModel:
        """All class modules side by side."""
        composed = compose(self.split)
        self._save(composed, "composed", metrics={"search_accuracy": self.split.result.accuracy})
        return composed

    def patched(self, target: str) -> PatchedModel:
        """The weak model with the class module of ``target`` attached."""
        settings = self.recipe.patch
        patched = patch(
            self.weak(target),
            {target: self.split[target]},
            self.weak_data(target),
            **vars(settings.fitting),
        )
        details = {"patch": settings.model_dump(mode="json")}
        self._save(patched, f"patched-{file_name(target)}", **details)
        return patched

    def report(self) -> Report:
        """Do everything that is not done yet; return and write the figures on the test images.

        They are written as ``report.json``, and to be read as ``report.html``.
        """
        path = self.folder / "report.json"
        if path.exists():
            return read_report(path)
        from cnnsplitter.report.page import write_report  # matplotlib takes a while to import

        report = self._facts()
        write_results(self.folder / "results.json", report.patches)
        write_report(self.folder, report)
        return report

    def _facts(self) -> Report:
        search, test = self.recipe.search, self.strong_data.test
        models: dict[str, Classifier | ComposedModel] = {
            "strong": self.strong,
            "composed": self.composed,
        }
        patches = [self._patch_facts(target) for target in self.recipe.patch.targets]
        return Report(
            title=self.recipe.title,
            strong_model=self.recipe.strong.model,
            weak_model=self.recipe.weak.model,
            data=[
                data_row("strong model", self.recipe.strong_data.source, self.strong_data),
                *(found.data for found in patches),
            ],
            strong_accuracy=evaluate(self.strong, test).accuracy,
            composed_accuracy=evaluate(self.composed, test).accuracy,
            modules=list(self.split.rows(self.strong)),
            **search_facts(self.split, self.channels, search.search),
            patches=[found.row for found in patches],
            evidence=[found.evidence for found in patches],
            costs=[*model_costs(models, test), *(row for found in patches for row in found.costs)],
            recipe=self.recipe.model_dump(mode="json"),
            search=search.told | {"compensated": search.compensates},
            **made_by(),
        )

    def _patch_facts(self, target: str) -> PatchFacts:
        weak, patched, data = self.weak(target), self.patched(target), self.weak_data(target)
        (row,) = compare(weak, patched, data.test).rows()
        cost = measure_patch_cost(patched, data.test, latency=True)
        kept = self.channels.kernels(self.split.result.selection(target))
        figures: Row = {
            **row,
            "guard": self._guarded(target),
            "seed": self.recipe.seed,
            "method": patched.method,
            "kept_kernels": kept / self.channels.kernel_count,
            **{f"macs_{name}": found.multiply_adds for name, found in cost.models.items()},
            "run_share": cost.run_share[target],
        }
        return PatchFacts(
            figures,
            gather_evidence(patched, target, data.test),
            cost.rows(),
            data_row(f"weak model, {target}", self.data.source(target), data),
        )

    def _guarded(self, target: str) -> str:
        """Return what held-out calibration images say; the patch is written whatever they say."""
        module, data = self.split[target], self.weak_data(target)
        fitting = self.recipe.patch.fitting
        verdicts, refused = try_modules(self.weak(target), {target: module}, data, fitting)
        if refused:
            return f"not judged: {refused[target]}"
        return "kept" if verdicts[0].helps else f"not kept: {verdicts[0]}"

    def untrained(self, settings: ModelSettings, data: Splits) -> Classifier:
        """Return an untrained model that is known to take the images."""
        net, architecture = build_model(
            settings.model,
            len(data.classes),
            data.input_shape,
            width=settings.width,
            dropout=settings.dropout,
            arguments=settings.arguments,
            seed=self.recipe.seed,
        )
        start = Classifier(
            net, data.classes, data.input_shape, settings.preprocessing, architecture
        )
        start.check()
        return start

    def _trained(self, name: str, settings: ModelSettings, data: Splits) -> Classifier:
        path = self.folder / f"{name}.safetensors"
        checkpoint = path.with_suffix(".checkpoint")
        if not path.exists():
            trained = train(
                self.untrained(settings, data).to(best_device()),
                data.train,
                data.search if len(data.search) else None,
                settings.training,
                seed=self.recipe.seed,
                checkpoint=checkpoint,
                progress=self.progress,
                stage=f"train {name}",
            )
            metrics = trained.history[trained.best_epoch - 1]
            training = settings.training.model_dump()
            self._save(trained.classifier, name, training=training, metrics=metrics)
        checkpoint.unlink(missing_ok=True)
        return load_as(Classifier, path, build=_builder(settings)).to(best_device())

    def _save(self, model: Model, name: str, **details: Any) -> None:
        path = self.folder / f"{name}.safetensors"
        kept = {"versions": versions(), "seed": self.recipe.seed, **details}
        save(model, path, details=kept, overwrite=True)


def _is_ranked(search: Search) -> bool:
    """Return whether a search, or the sensitivity that it needs, uses the units' importance."""
    return search.needs_importance or search.needs_sensitivity


def _builder(settings: ModelSettings) -> Builder:
    """Return what builds a recipe's network again, as the recipe and not a file says."""
    return lambda _: build_with_factory(settings.model, settings.arguments)


def save_modules(found: Split, folder: Path, details: Mapping[str, Any]) -> list[str]:
    """Write each class module to a file named after its class; return the files."""
    known: dict[str, Any] = {"versions": versions(), **details}
    known.setdefault("metrics", {"search_accuracy": found.result.accuracy})
    known["strong_weights"] = found.strong_weights
    files = []
    for name, module in found.items():
        path = folder / f"{file_name(name)}.safetensors"
        save(module, path, details=known, overwrite=True)
        files.append(str(path))
    return files


def _completed(found: Any) -> Any:
    """Return a saved recipe with the settings that have come since it was, if it is one."""
    try:
        recipe = Recipe.model_validate({name: found[name] for name in found if name != "places"})
        return recipe.model_dump(mode="json") | {"places": found["places"]}
    except (KeyError, TypeError, ValidationError):
        return found
