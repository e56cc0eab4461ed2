"""Run a recipe from training to the patch report; what is finished is not done again."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cnnsplitter.channels import ChannelMap
from cnnsplitter.class_modules import ComposedModel, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, Splits, load_data
from cnnsplitter.errors import SettingsError, StorageError, require_known
from cnnsplitter.evaluation import compare, evaluate
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.models import build_model
from cnnsplitter.patching import PatchedModel, patch
from cnnsplitter.progress import Progress, silent
from cnnsplitter.recipes import TARGET, DataSettings, ModelSettings, Recipe, SearchSettings
from cnnsplitter.results import Row, read_json, write_json, write_results
from cnnsplitter.scoring import CutScorer
from cnnsplitter.search import GeneticSearch
from cnnsplitter.sensitivity import Sensitivity, measure_sensitivity
from cnnsplitter.splitting import Split, limited, split, trace
from cnnsplitter.storage import load_as, save
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

        Raises:
            StorageError: The folder holds something else and ``force`` is not given.
        """
        settings = self.recipe.model_dump(mode="json")
        known = self.folder / "recipe.json"
        if force and known.exists():
            shutil.rmtree(self.folder)
        if known.exists() and read_json(known) != settings:
            raise StorageError(
                f"{self.folder}: holds a run with other settings; choose another --out, or --force"
            )
        if not known.exists() and self.folder.exists() and any(self.folder.iterdir()):
            raise StorageError(
                f"{self.folder}: is not empty and holds no run; choose another --out"
            )
        write_json(known, settings)

    def check(self) -> None:
        """Open all data and check targets and settings before any long work starts."""
        strong = self.strong_data
        for target in self.recipe.patch.targets:
            require_known("target class of the strong model", target, strong.classes)
            weak = self.weak_data(target)
            require_known("target class of the weak model", target, weak.classes)
            if weak.input_shape != strong.input_shape:
                raise SettingsError(
                    f"the weak model's images have shape {weak.input_shape} but the strong "
                    f"model's {strong.input_shape}; a patch sees the same images as the weak model"
                )

    @cached_property
    def strong_data(self) -> Splits:
        """The strong model's images."""
        return self._load(self.recipe.strong_data, self.recipe.strong_data.source)

    def weak_data(self, target: str) -> Splits:
        """The images of the weak model that is poor at ``target``."""
        settings = self.recipe.weak_data
        data = self._load(settings, settings.source.replace(TARGET, target))
        most = self.recipe.weak.target_images
        return data if most is None else _with_scarce_class(data, target, most, self.recipe.seed)

    @cached_property
    def strong(self) -> Classifier:
        """The strong model."""
        return self._train("strong", self.recipe.strong, self.strong_data, "strong")

    def weak(self, target: str) -> Classifier:
        """The weak model that is poor at ``target``."""
        name = f"weak-{target}"
        return self._train(name, self.recipe.weak, self.weak_data(target), name)

    @cached_property
    def channels(self) -> ChannelMap:
        """The strong model's channel map."""
        return trace(self.strong)

    @cached_property
    def importance(self) -> Importance:
        """Importance of the strong model's units, on its training images."""
        return measure_importance(
            self.strong, self.channels, self.strong_data.train, progress=self.progress
        )

    @cached_property
    def search_images(self) -> ImageSet:
        """The images that score selections."""
        return limited(self.strong_data.search, self.recipe.search.images, self.recipe.seed)

    @cached_property
    def sensitivity(self) -> Sensitivity:
        """Sensitivity of the strong model's layers."""
        path = self.folder / "sensitivity.json"
        if path.exists():
            return Sensitivity.from_json(read_json(path))
        scorer = CutScorer(self.strong, self.channels, self.search_images)
        curves = measure_sensitivity(
            scorer,
            self.importance,
            self.search_images.labels,
            ratios=self.recipe.search.ratios,
            progress=self.progress,
        )
        write_json(path, curves.to_json())
        return curves

    @cached_property
    def split(self) -> Split:
        """The class modules, written to ``modules/``."""
        found = split(
            self.strong,
            self.strong_data,
            search=self.recipe.search.search,
            seed=self.recipe.seed,
            importance=self.importance,
            sensitivity=self.sensitivity,
            search_images=self.recipe.search.images,
            checkpoint=self.folder / "search.safetensors",
            progress=self.progress,
        )
        save_modules(found, self.folder / "modules", {"seed": self.recipe.seed})
        return found

    @cached_property
    def composed(self) -> ComposedModel:
        """All class modules side by side."""
        composed = compose(self.split)
        self._save(composed, "composed", accuracy=self.split.result.accuracy)
        return composed

    def patched(self, target: str) -> PatchedModel:
        """The weak model with the class module of ``target`` attached."""
        settings = self.recipe.patch
        patched = patch(
            self.weak(target),
            {target: self.split[target]},
            self.weak_data(target),
            calibration=settings.calibration,
            rule=settings.rule,
        )
        self._save(patched, f"patched-{file_name(target)}")
        return patched

    def report(self) -> dict[str, Any]:
        """Do everything that is not done yet; return and write the figures on the test images."""
        self.sensitivity  # noqa: B018  # measured first: its curves are of use while the search runs
        rows = [self._patch_row(target) for target in self.recipe.patch.targets]
        summary = {
            "title": self.recipe.title,
            "strong_accuracy": evaluate(self.strong, self.strong_data.test).accuracy,
            "composed_accuracy": evaluate(self.composed, self.strong_data.test).accuracy,
            "modules": self.split.rows(self.strong),
            "patches": rows,
        }
        write_json(self.folder / "report.json", summary)
        write_results(self.folder / "results.json", rows)
        return summary

    def _patch_row(self, target: str) -> Row:
        weak, patched, data = self.weak(target), self.patched(target), self.weak_data(target)
        (row,) = compare(weak, patched, data.test).rows()
        costs = {"weak": weak, "patched": patched}
        macs = {
            f"macs_{name}": measure_cost(model, data.input_shape).multiply_adds
            for name, model in costs.items()
        }
        kept = measure_cost(self.split[target], data.input_shape).kernels
        return {
            **row,
            "seed": self.recipe.seed,
            "method": f"{self.recipe.patch.calibration}, {self.recipe.patch.rule}",
            "kept_kernels": kept / self.channels.kernel_count,
            **macs,
        }

    def _load(self, settings: DataSettings, source: str) -> Splits:
        data = load_data(
            source,
            places=self.places,
            shares=settings.shares,
            seed=self.recipe.seed,
            progress=self.progress,
        )
        return data.balanced(self.recipe.seed) if settings.balance else data

    def _train(self, name: str, settings: ModelSettings, data: Splits, stage: str) -> Classifier:
        path = self.folder / f"{file_name(name)}.safetensors"
        if path.exists():
            return load_as(Classifier, path)
        net, architecture = build_model(
            settings.model,
            len(data.classes),
            data.input_shape,
            width=settings.width,
            dropout=settings.dropout,
            seed=self.recipe.seed,
        )
        start = Classifier(
            net, data.classes, data.input_shape, settings.preprocessing, architecture
        )
        checkpoint = path.with_suffix(".checkpoint")
        trained = train(
            start,
            data.train,
            data.search if len(data.search) else None,
            settings.training,
            seed=self.recipe.seed,
            checkpoint=checkpoint,
            progress=self.progress,
            stage=f"train {stage}",
        )
        self._save(trained.classifier, path.stem, training=settings.training.model_dump())
        checkpoint.unlink(missing_ok=True)
        return trained.classifier

    def _save(self, model: Any, name: str, **details: Any) -> None:
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            save(model, path, details={"seed": self.recipe.seed, **details})


def _with_scarce_class(data: Splits, target: str, most: int, seed: int) -> Splits:
    """Leave at most ``most`` training images of ``target``."""
    label = data.classes.index(target)
    positions = (data.train.labels == label).nonzero().flatten()
    order = torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))
    keep = torch.ones(len(data.train), dtype=torch.bool)
    keep[positions[order[most:]]] = False
    return Splits(data.train.take(keep), data.search, data.calibration, data.test)


def save_modules(found: Split, folder: Path, details: Mapping[str, Any]) -> list[str]:
    """Write each class module to a file named after its class; return the files."""
    files = []
    for name, module in found.items():
        path = folder / f"{file_name(name)}.safetensors"
        save(module, path, details=dict(details), overwrite=True)
        files.append(str(path))
    return files


def adapted_search(preset: str | None, **changes: Any) -> GeneticSearch:
    """Return the default search, or a published one, with the settings given that are not None."""
    wanted = {key: value for key, value in changes.items() if value is not None}
    return SearchSettings(preset=preset, genetic=wanted).search


def file_name(name: str) -> str:
    """Return a class name as a file name that stays in the folder."""
    return "".join(c if c.isalnum() or c in "-_" else f"%{ord(c):02x}" for c in name)
