"""Whole runs at toy size, on generated images in the real file formats."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch

import cnnsplitter.cost
import cnnsplitter.data.named
import cnnsplitter.figures
import cnnsplitter.pipeline
from cnnsplitter.calibration import METHODS
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.errors import DataError, ModelError, SettingsError, StorageError
from cnnsplitter.evaluation import compare, evaluate
from cnnsplitter.patches.cost import measure_patch_cost
from cnnsplitter.patches.patching import PatchedModel, patch
from cnnsplitter.pipeline import Run, save_modules
from cnnsplitter.progress import Progress, Step, silent
from cnnsplitter.recipes import Recipe
from cnnsplitter.results import read_json, write_json
from cnnsplitter.search import Generation, GeneticSearch, SearchResult
from cnnsplitter.splitting import Split
from cnnsplitter.storage.saving import describe, load_as
from toy_runs import (
    CIFAR100,
    DIGITS,
    SETS,
    TEST,
    TRAIN,
    contents,
    finish,
    images_of,
    small,
    toy,
    untimed,
)

GENERATION = Generation(0, 0.9, 0.5, 0.5, 0.8, 0.8, 30)
CONFIGURATIONS = ("simcnn-cifar10", "rescnn-cifar10", "simcnn-svhn", "rescnn-svhn", "rescnn-svhn-5")


@pytest.fixture(autouse=True, scope="module")
def briefly() -> Iterator[None]:
    """Models are timed for a moment: no test looks at how long they take."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cnnsplitter.cost, "LATENCY_SECONDS", 0.01)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures out of reports; ``whole``, and the run on files of SVHN, draw them."""
    monkeypatch.setattr(cnnsplitter.figures, "as_svg", lambda *figure: "<svg></svg>")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One npz file per data set."""
    folder = tmp_path_factory.mktemp("data")
    for name, classes in SETS.items():
        parts: dict[str, Any] = {"classes": np.array(classes)}
        for part, each in (("train", TRAIN), ("test", TEST)):
            parts[f"x_{part}"], parts[f"y_{part}"] = images_of(len(classes), each, len(part))
        np.savez(folder / f"{name}.npz", **parts)
    return {name: str(folder / f"{name}.npz") for name in SETS}


def times(folder: Path) -> Mapping[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def check_report(report: dict[str, Any], run: Run) -> None:
    """What a report says is what the saved models do."""
    recipe, folder = run.recipe, run.folder
    strong = load_as(Classifier, folder / "strong.safetensors")
    composed = load_as(ComposedModel, folder / "composed.safetensors")
    test = run.strong_data.test
    assert report["strong_accuracy"] == evaluate(strong, test).accuracy
    assert report["composed_accuracy"] == evaluate(composed, test).accuracy
    assert [row["class"] for row in report["modules"]] == list(strong.classes)
    for row in report["modules"]:
        module = load_as(ClassModule, folder / "modules" / f"{row['class']}.safetensors")
        assert module.source_class == row["class"]
        assert 0 < row["kept_kernels"] <= 1
    (row,) = report["patches"]
    (target,) = recipe.patch.targets
    weak = load_as(Classifier, folder / f"weak-{target}.safetensors")
    patched = load_as(PatchedModel, folder / f"patched-{target}.safetensors")
    (figures,) = compare(weak, patched, run.weak_data(target).test).rows()
    assert row.items() >= figures.items()
    assert row["method"] == "min-max, replace"
    assert row["guard"].startswith(("kept", "not kept: class", "not judged: class"))
    assert row["macs_patched"] > row["macs_weak"] > 0
    kept = next(m["kept_kernels"] for m in report["modules"] if m["class"] == target)
    assert row["kept_kernels"] == pytest.approx(kept)
    of_strong, of_weak = report["data"]
    assert of_strong["test"] == len(test)
    assert of_weak["source"] == run.data.source(target)
    assert of_weak["calibration"] == len(run.weak_data(target).calibration)
    assert report["start_ratios"].keys() == set(report["layers"])
    assert all(step["kept_macs"] is not None for step in report["history"])
    assert read_json(folder / "report.json") == report
    assert read_json(folder / "results.json")["rows"] == report["patches"]
    assert not list(folder.glob("*.checkpoint"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_published_configurations(
    name: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def counted(*parts: Any, **settings: Any) -> PatchedModel:
        fitted.append(parts)
        return patch(*parts, **settings)

    monkeypatch.setattr(cnnsplitter.pipeline, "patch", counted)
    run = Run(toy(name), tmp_path / "run", places)
    report = finish(run)
    assert len(fitted) == 1
    check_report(report, run)
    assert not (tmp_path / "run" / "sensitivity.json").exists()  # the presets list their ratios
    module = "3" if "svhn" in name else "bird"
    details = describe(tmp_path / "run" / "modules" / f"{module}.safetensors")["details"]
    assert details["search"]["gamma"] == GeneticSearch.paper(name).gamma


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Write the MATLAB files of SVHN: [32, 32, 3, N], and the digit 0 has label 10."""
    from torchvision.datasets import SVHN

    table = {}
    for part, each in (("train", TRAIN), ("test", TEST)):
        images, labels = images_of(10, each, len(part))
        path = root / f"{part}_32x32.mat"
        labels = np.where(labels == 0, 10, labels)[:, None]
        scipy.io.savemat(path, {"X": images.transpose(1, 2, 3, 0), "y": labels})
        table[part] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    patch.setattr(SVHN, "split_list", table)
    patch.setattr(cnnsplitter.data.named, "DEFAULT_ROOT", root)


def test_published_configuration_from_the_real_svhn_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path, monkeypatch)
    run = Run(toy("simcnn-svhn-5"), tmp_path / "run", {})
    check_report(finish(run), run)


@pytest.fixture(scope="module")
def whole(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    finish(Run(small(), folder, places))
    return folder


def interrupt(stage: str, done: int) -> Progress:
    def progress(step: Step, /) -> None:
        if (step.stage, step.done) == (stage, done):
            raise KeyboardInterrupt

    return progress


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("stage", "done"),
    [
        ("train strong", 2),
        ("train weak-3", 1),
        ("importance", 1),
        ("sensitivity", 4),
        ("search", 2),
    ],
)
def test_resumed_equals_uninterrupted(
    stage: str, done: int, whole: Path, places: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        finish(Run(small(), tmp_path, places, interrupt(stage, done)))
    assert not (tmp_path / "report.json").exists()
    before = contents(tmp_path)
    again: list[tuple[str, int]] = []
    finish(Run(small(), tmp_path, places, lambda step: again.append((step.stage, step.done))))
    assert contents(tmp_path) == contents(whole)
    assert untimed(tmp_path) == untimed(whole)
    finished = {name for name in before if name.endswith("safetensors") and name[:6] != "search"}
    assert finished <= contents(whole).keys()
    assert all((stage, n) not in again for n in range(1, done) if stage != "sensitivity")


def test_a_gate_shows_in_the_costs(whole: Path, places: dict[str, str], tmp_path: Path) -> None:
    for name, content in contents(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    recipe = changed("patch", calibration="learned", gate=0.5)(small())
    run = Run(recipe, tmp_path, places)
    (plain,) = read_json(whole / "report.json")["patches"]
    assert plain["run_share"] == 1
    assert "macs_gated" not in plain
    report, found = run.report(), measure_patch_cost(run.patched("3"), run.weak_data("3").test)
    (row,) = report.patches
    assert (row["run_share"], row["macs_weak"]) == (found.run_share["3"], plain["macs_weak"])
    assert row["macs_patched"] == plain["macs_patched"]
    assert row["macs_gated"] == found.models["gated"].multiply_adds
    *_, weak, patched, gated = report.costs
    assert (weak["model"], patched["model"]) == ("weak, 3", "patched, 3")
    assert gated["model"] == f"gated, runs 3 on {found.run_share['3']:.0%} of the images"
    assert gated["multiply_adds"] == row["macs_gated"]
    assert gated["latency_ms"]


def test_the_genetic_search_measures_sensitivity(whole: Path) -> None:
    curves = read_json(whole / "sensitivity.json")
    assert curves["ratios"] == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_a_second_call_does_nothing_again(whole: Path, places: dict[str, str]) -> None:
    def nothing(step: Step, /) -> None:
        raise AssertionError(f"{step.stage} has begun")

    before = times(whole)
    report = finish(Run(small(), whole, places, nothing))
    assert report == read_json(whole / "report.json")
    assert times(whole) == before


@pytest.mark.usefixtures("undrawn")
def test_parts_that_are_there_are_not_made_again(
    whole: Path, places: dict[str, str], tmp_path: Path
) -> None:
    run = Run(small(), tmp_path, places)
    run.prepare()
    for name, content in contents(whole).items():
        if not name.startswith(("modules", "composed", "patched")):
            (tmp_path / name).write_bytes(content)
    before = times(tmp_path)
    stages: list[str] = []
    finish(Run(small(), tmp_path, places, lambda step: stages.append(step.stage)))
    assert stages == []
    assert contents(tmp_path) == contents(whole)
    assert untimed(tmp_path) == untimed(whole)
    kept = {n: t for n, t in times(tmp_path).items() if n in before and n != "results.json"}
    assert kept == {n: t for n, t in before.items() if n != "results.json"}


def test_a_folder_of_another_recipe_is_refused(whole: Path, places: dict[str, str]) -> None:
    before = contents(whole)
    with pytest.raises(StorageError, match="holds a run with other settings"):
        Run(small(seed=1), whole, places).prepare()
    assert contents(whole) == before


def test_settings_that_an_older_version_did_not_know_have_their_defaults(
    whole: Path, places: dict[str, str], tmp_path: Path
) -> None:
    recipe = read_json(whole / "recipe.json")
    assert recipe["search"].pop("units") == "conv"
    write_json(tmp_path / "recipe.json", recipe)
    Run(small(), tmp_path, places).prepare()
    recipe["seed"] = 1
    others: list[Any] = [recipe, {**recipe, "seed": "none"}, {"title": 1, "places": {}}, [], 7]
    for broken in others:
        write_json(tmp_path / "recipe.json", broken)
        with pytest.raises(StorageError, match=r"holds a run with other|holds no run"):
            Run(small(), tmp_path, places).prepare()


def test_a_foreign_folder_is_refused_even_with_force(
    places: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "strong.safetensors").write_text("mine")
    for force in (False, True):
        with pytest.raises(StorageError, match="is not empty and holds no run"):
            Run(small(), tmp_path, places).prepare(force=force)
    assert contents(tmp_path) == {"strong.safetensors": b"mine"}


def test_force_starts_anew(whole: Path, places: dict[str, str], tmp_path: Path) -> None:
    for name, content in contents(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_text("mine")
    run = Run(small(seed=1), tmp_path, places)
    run.prepare(force=True)
    assert contents(tmp_path).keys() == {"notes.txt", "recipe.json"}
    assert read_json(tmp_path / "recipe.json")["seed"] == 1


def changed(part: str, **values: Any) -> Callable[[Recipe], Recipe]:
    def change(recipe: Recipe) -> Recipe:
        return recipe.model_copy(update={part: getattr(recipe, part).model_copy(update=values)})

    return change


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed("patch", targets=("33",)), SettingsError, "target class of the strong .* '33'"),
        (changed("patch", targets=("6",)), SettingsError, "target class of the strong model '6'"),
        (changed("weak_data", source="svhn[6-9]"), SettingsError, "of the weak model '3'"),
        (changed("strong_data", source="svnh"), SettingsError, "unknown data set 'svnh'"),
        (changed("strong_data", source="cifar10[cta]"), SettingsError, "class 'cta'; did you mean"),
        (
            changed("search", genetic={"start_ratios": {"conv_x": [0.5]}}),
            SettingsError,
            "unknown layer 'conv_x'",
        ),
        (changed("weak_data", train=0.9), SettingsError, "must add up to 1"),
        (changed("weak", mean=(0.5, 0.5)), ModelError, "for 2 channels but the images have 3"),
        (changed("strong", std=(0.0,)), SettingsError, "positive stds"),
        (changed("weak", dropout=0.5), SettingsError, "has no dropout"),
        (changed("weak_data", source="digits"), DataError, r"\(3, 32, 32\) but .* \(1, 8, 8\)"),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    change: Callable[[Recipe], Recipe],
    error: type[Exception],
    message: str,
    places: dict[str, str],
    tmp_path: Path,
) -> None:
    run = Run(change(small()), tmp_path / "run", places)
    with pytest.raises(error, match=message):
        run.check()
    assert not (tmp_path / "run").exists()


def test_a_scarce_class_loses_training_images_only(places: dict[str, str], tmp_path: Path) -> None:
    recipe = changed("weak", target_images=5)(small())
    scarce, all_ = (Run(r, tmp_path, places).weak_data("3") for r in (recipe, small()))
    names = scarce.classes
    for part, left, had in zip("abcd", scarce.sets, all_.sets, strict=True):
        lost = (had.counts() - left.counts()).tolist()
        expected = had.counts()[names.index("3")].item() - 5 if part == "a" else 0
        assert lost == [expected if name == "3" else 0 for name in names]
    again = Run(recipe, tmp_path, places).weak_data("3")
    assert torch.equal(again.train.rows, scarce.train.rows)


def test_sets_of_cifar_are_balanced(places: dict[str, str], tmp_path: Path) -> None:
    run = Run(toy("simcnn-cifar10"), tmp_path, places)
    assert run.weak_data("bird").classes == (*CIFAR100[:9], "bird")
    assert all(len(set(part.counts().tolist())) == 1 for part in run.weak_data("bird").sets)


def test_class_names_cannot_leave_the_folder(whole: Path, tmp_path: Path) -> None:
    module = load_as(ClassModule, whole / "modules" / "3.safetensors")
    names = ("..", "a/b", "a%2Fb", "/etc/x")
    result = SearchResult(names, torch.ones(4, 2, dtype=torch.bool), "", (GENERATION,))
    modules = dict.fromkeys(names, module)
    found = Split(modules, result, torch.ones(2, dtype=torch.int64), "digest")
    files = save_modules(found, tmp_path / "modules", {"seed": 3})
    assert sorted(files) == sorted(str(p) for p in (tmp_path / "modules").iterdir())
    assert len(set(files)) == len(names)
    details = describe(files[0])["details"]
    assert (details["seed"], details["strong_weights"]) == (3, "digest")
    assert details["metrics"] == {"search_accuracy": GENERATION.accuracy}


def test_weak_models_may_have_any_class_name(places: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "odd.npz"
    with np.load(places["svhn"]) as arrays:
        odd = dict(arrays) | {"classes": np.array([*DIGITS[:3], "../..", *DIGITS[4:]])}
    np.savez(path, **odd)
    recipe = changed("patch", targets=("../..",))(small(generations=1))
    recipe = changed("strong_data", source="svhn")(recipe)
    recipe = changed("weak_data", source="svhn")(recipe)
    run = Run(recipe, tmp_path / "run", {"svhn": str(path)})
    run.prepare()
    run.weak("../..")
    assert (tmp_path / "run" / "weak-%2E%2E%2F%2E%2E.safetensors").is_file()
    assert {p.name for p in tmp_path.iterdir()} == {"run", "odd.npz"}


def test_other_calibrations_can_be_chosen(
    whole: Path, places: dict[str, str], tmp_path: Path
) -> None:
    for name, content in contents(whole).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for method in METHODS:
        recipe = changed("patch", calibration=method, rule="renormalise")(small())
        patched = Run(recipe, tmp_path, places, silent).patched("3")
        assert (patched.calibrations[0].kind, patched.rule) == (method, "renormalise")
