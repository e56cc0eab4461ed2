"""From training to the patch: what each command prints and writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, load_data
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.saving import describe, load, load_as, save
from cnnsplitter.subtasks.networks import Subtask, unite
from cnnsplitter.training import Training
from shop import CLASSES, Shop, call, succeed


class TestTrain:
    def test_json_is_the_test_evaluation(self, shop: Shop) -> None:
        outcome = shop.outcomes["train"]
        assert outcome.json["file"] == str(shop / "strong.safetensors")
        assert outcome.json["test"]["classes"] == list(CLASSES)
        assert outcome.json["test"]["accuracy"] > 0.9

    def test_progress_goes_to_standard_error(self, shop: Shop) -> None:
        lines = shop.outcomes["train"].err.splitlines()
        assert lines[0].startswith("train: 1/4  loss ")
        assert lines[-1].startswith("train: 4/4  loss ")

    def test_the_file_says_how_it_was_made(self, shop: Shop) -> None:
        details = describe(shop / "strong.safetensors")["details"]
        wanted = Training.overfit(4).model_copy(update={"batch_size": 16, "learning_rate": 0.1})
        assert details["training"] == wanted.model_dump()
        assert (details["kind"], details["seed"]) == ("overfit", 0)
        assert (
            details["metrics"]["test_accuracy"] == shop.outcomes["train"].json["test"]["accuracy"]
        )
        assert details["versions"]["torch"].startswith("2.")

    def test_preprocessing_is_measured_on_the_training_images(self, shop: Shop) -> None:
        strong = load_as(Classifier, shop / "strong.safetensors")
        train = load_data(shop / "data.npz").train
        mean, std = train.channel_statistics(seed=0)
        assert strong.preprocessing.mean == pytest.approx(mean)
        assert strong.preprocessing.std == pytest.approx(std)

    def test_preprocessing_can_be_given(self, shop: Shop, tmp_path: Path) -> None:
        out = tmp_path / "a.safetensors"
        data = ("--data", shop / "data.npz", "--epochs", 1)
        succeed("train", "lenet5", *data, "--out", out, "--mean", "0.25", "--std", "0.5")
        assert load_as(Classifier, out).preprocessing.mean == (0.25,)
        assert load_as(Classifier, out).preprocessing.std == (0.5,)

    def test_half_of_the_epochs_given_is_underfit(self, shop: Shop, tmp_path: Path) -> None:
        out = tmp_path / "a.safetensors"
        options = ("--data", shop / "data.npz", "--kind", "underfit", "--epochs", 5)
        succeed("train", "lenet5", *options, "--out", out)
        assert describe(out)["details"]["training"] == Training.underfit(5).model_dump()
        assert Training.underfit(5).epochs == 2

    def test_a_result_may_be_named_like_a_checkpoint(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--data", shop / "data.npz", "--epochs", 1)
        succeed("train", "lenet5", *options, "--out", tmp_path / "a.checkpoint")
        assert [path.name for path in tmp_path.iterdir()] == ["a.checkpoint"]
        assert load_as(Classifier, tmp_path / "a.checkpoint").classes == CLASSES

    def test_no_checkpoint_is_left(self, shop: Shop) -> None:
        assert not list(shop.folder.rglob("*checkpoint*"))


class TestAdopt:
    def test_takes_the_weights_of_a_state_dict(self, shop: Shop, tmp_path: Path) -> None:
        strong = load_as(Classifier, shop / "strong.safetensors")
        torch.save(strong.net.state_dict(), tmp_path / "weights.pt")
        outcome = succeed(
            *("adopt", "lenet5", tmp_path / "weights.pt", "--data", shop / "data.npz", "--json"),
            *("--out", tmp_path / "a.safetensors"),
            *("--mean", strong.preprocessing.mean[0], "--std", strong.preprocessing.std[0]),
        )
        assert outcome.json["test"] == shop.outcomes["train"].json["test"]
        images = load_data(shop / "data.npz").test
        adopted = load_as(Classifier, tmp_path / "a.safetensors")
        assert torch.equal(predict(adopted, images), predict(strong, images))
        assert describe(tmp_path / "a.safetensors")["details"]["weights"] == "weights.pt"


class TestSplit:
    def test_sensitivity_writes_what_it_prints(self, shop: Shop) -> None:
        printed = shop.outcomes["sensitivity"].json
        assert json.loads((shop / "curves.json").read_text()) == {
            key: value for key, value in printed.items() if key != "file"
        }

    def test_sensitivity_limits_the_images_of_importance(
        self, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used = []

        def measure(strong: Any, channels: Any, images: ImageSet, **options: Any) -> Importance:
            used.append(len(images))
            return measure_importance(strong, channels, images, **options)

        monkeypatch.setattr("cnnsplitter.importance.measure_importance", measure)
        monkeypatch.setattr("cnnsplitter.splitting.IMPORTANCE_IMAGES", 12)
        succeed(
            *("sensitivity", shop / "strong.safetensors", "--data", shop / "data.npz"),
            *("--search-images", 20, "--out", tmp_path / "c.json"),
        )
        assert used == [12]

    def test_writes_what_it_prints(self, shop: Shop) -> None:
        result = shop.outcomes["split"].json
        assert json.loads((shop / "modules" / "split.json").read_text()) == result
        overlap = torch.tensor(result["overlap"], dtype=torch.float64)
        assert overlap.shape == (len(CLASSES), len(CLASSES))
        others = (overlap.sum(1) - 1) / (len(CLASSES) - 1)
        assert others.tolist() == pytest.approx([row["overlap"] for row in result["modules"]])

    def test_given_curves_are_not_measured_again(self, shop: Shop) -> None:
        assert "sensitivity" not in shop.outcomes["split"].err
        assert "search: 2/2" in shop.outcomes["split"].err

    def test_writes_a_class_module_per_class(self, shop: Shop) -> None:
        result = shop.outcomes["split"].json
        assert [Path(file).stem for file in result["files"]] == list(CLASSES)
        assert [row["class"] for row in result["modules"]] == list(CLASSES)
        for file, name in zip(result["files"], CLASSES, strict=True):
            assert load_as(ClassModule, file).source_class == name

    def test_both_accuracies_are_those_on_the_test_images(self, shop: Shop) -> None:
        result = shop.outcomes["split"].json
        assert result["strong_accuracy"] == shop.outcomes["train"].json["test"]["accuracy"]
        assert result["composed_accuracy"] == shop.outcomes["compose"].json["test"]["accuracy"]

    def test_text_shows_both_accuracies_and_every_class(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--data", shop / "data.npz", "--population", 4, "--generations", 1)
        outcome = succeed("split", shop / "strong.safetensors", *options, "--out", tmp_path / "m")
        result = json.loads((tmp_path / "m" / "split.json").read_text())
        assert f"Strong model: accuracy {result['strong_accuracy']:.3f}" in outcome.out
        assert f"Composed of its class modules: {result['composed_accuracy']:.3f}" in outcome.out
        table = outcome.out.splitlines()
        assert all(any(line.startswith(f"{name} ") for line in table) for name in CLASSES)

    def test_population_brings_its_parents_and_elites(self, shop: Shop) -> None:
        search = describe(shop / "modules" / "cat.safetensors")["details"]["search"]
        assert search["population"] == 6
        assert search["elites"] < search["parents"] <= 6


class TestSensitivityText:
    def test_shows_every_layer(self, shop: Shop, tmp_path: Path) -> None:
        arguments = ("--data", shop / "data.npz", "--search-images", 20)
        outcome = succeed(
            *("sensitivity", shop / "strong.safetensors", "--out", tmp_path / "c.json"), *arguments
        )
        curves = json.loads((tmp_path / "c.json").read_text())
        for name, row in curves["accuracy"].items():
            (line,) = (text for text in outcome.out.splitlines() if text.startswith(f"{name} "))
            assert line.split()[1:11] == [str(round(100 * share)) for share in row]
        assert "Sensitive layers: " in outcome.out


class TestCompose:
    def test_scores_are_those_of_the_class_modules(self, shop: Shop) -> None:
        composed = load_as(ComposedModel, shop / "composed.safetensors")
        assert composed.classes == CLASSES
        images = load_data(shop / "data.npz").test
        modules = [load_as(ClassModule, shop / "modules" / f"{n}.safetensors") for n in CLASSES]
        scores = torch.stack([predict(module, images) for module in modules], dim=1)
        assert torch.equal(predict(composed, images), scores)

    def test_a_part_of_the_classes_with_calibration(self, shop: Shop, tmp_path: Path) -> None:
        files = [shop / "modules" / f"{name}.safetensors" for name in ("dog", "cat")]
        options = ("--data", shop / "data.npz", "--calibration", "percentile")
        outcome = succeed("compose", *files, *options, "--out", tmp_path / "c.safetensors")
        composed = load_as(ComposedModel, tmp_path / "c.safetensors")
        assert composed.classes == ("dog", "cat")
        assert composed.calibrations is not None
        assert [c.kind for c in composed.calibrations] == ["percentile"] * 2
        assert "Test images, composed model: accuracy" in outcome.out

    def test_the_file_says_how_it_was_made(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--data", shop / "data.npz", "--calibration", "z-score", "--seed", 3, "--json")
        outcome = succeed("compose", shop / "modules", *options, "--out", tmp_path / "c")
        made = describe(tmp_path / "c")["details"]
        assert made.pop("versions")
        assert made == {
            "seed": 3,
            "data": str(shop / "data.npz"),
            "calibration": "z-score",
            "metrics": {"test_accuracy": outcome.json["test"]["accuracy"]},
        }

    def test_needs_no_images(self, shop: Shop, tmp_path: Path) -> None:
        outcome = succeed("compose", shop / "modules", "--out", tmp_path / "c.safetensors")
        assert outcome.out == f"Written to {tmp_path / 'c.safetensors'}: {', '.join(CLASSES)}\n"

    def test_shared_units_are_those_of_all_class_modules(self, shop: Shop, tmp_path: Path) -> None:
        paths = [shop / f"modules/{name}.safetensors" for name in ("dog", "cat")]
        options = ("--share", shop / "strong.safetensors", "--data", shop / "data.npz", "--json")
        out = tmp_path / "shared.safetensors"
        outcome = succeed("compose", *paths, *options, "--out", out)
        shared = load_as(Subtask, out)
        strong = load_as(Classifier, shop / "strong.safetensors")
        parts = [load_as(ClassModule, path) for path in paths]
        united = unite(strong, parts)
        images = load_data(shop / "data.npz").test.relabel(("dog", "cat"))
        assert torch.equal(predict(shared, images), predict(united, images))
        right = (predict(united, images).argmax(1) == images.labels).double().mean().item()
        assert outcome.json["test"]["accuracy"] == right
        kernels = [measure_cost(model, strong.input_shape).kernels for model in (shared, *parts)]
        assert max(kernels[1:]) <= kernels[0] <= sum(kernels[1:])

    def test_scores_of_one_network_are_not_calibrated(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--share", shop / "strong.safetensors", "--data", shop / "data.npz")
        calibrated = (*options, "--calibration", "learned", "--out", tmp_path / "c")
        outcome = call("compose", shop / "modules", *calibrated)
        assert outcome.code == 2
        assert "--calibration is for class modules side by side" in outcome.err


class TestEvaluate:
    def test_is_what_training_said(self, shop: Shop) -> None:
        outcome = succeed(
            "evaluate", shop / "strong.safetensors", "--data", shop / "data.npz", "--json"
        )
        assert outcome.json["model"] == shop.outcomes["train"].json["test"]
        assert outcome.json["cost"]["model"]["latency_ms"] is None
        assert outcome.err == ""

    def test_against_another_model(self, shop: Shop) -> None:
        outcome = succeed(
            *("evaluate", shop / "patched.safetensors", "--before", shop / "weak.safetensors"),
            *("--data", shop / "data.npz", "--json"),
        )
        patch = shop.outcomes["patch"].json
        assert outcome.json["before"] == patch["before"]
        assert outcome.json["after"] == patch["after"]
        assert outcome.json["comparison"]["rows"] == patch["rows"]

    def test_text_shows_both_models_and_the_ratio_of_their_costs(self, shop: Shop) -> None:
        outcome = succeed(
            *("evaluate", shop / "strong.safetensors", "--before", shop / "weak.safetensors"),
            *("--data", shop / "data.npz"),
        )
        assert "Test images, before: accuracy" in outcome.out
        assert "Test images, after: accuracy" in outcome.out
        (ratio,) = (line for line in outcome.out.splitlines() if line.startswith("ratio"))
        assert ratio.split() == ["ratio", "1.000", "1.000", "1.000"]  # two networks of one kind


class TestInspect:
    @pytest.mark.parametrize("name", ["strong", "composed", "patched", "modules/cat"])
    def test_json_is_the_manifest_and_what_each_part_costs(self, shop: Shop, name: str) -> None:
        file = shop / f"{name}.safetensors"
        result = succeed("inspect", file, "--json").json
        assert describe(file).items() <= result.items()
        modules = len(getattr(load(file), "class_modules", ()))
        assert len(result["parts"]) == 1 + modules
        assert all(part["kernels"] > 0 for part in result["parts"])

    @pytest.mark.parametrize("threshold", [-1e9, 1e9])
    def test_gated_patches_count_whole(self, shop: Shop, tmp_path: Path, threshold: float) -> None:
        patched = load_as(PatchedModel, shop / "patched.safetensors")
        gated = [replace(part, gate=Gate("unsure", threshold)) for part in patched.patches]
        file = tmp_path / "gated.safetensors"
        save(PatchedModel(patched.weak, gated, patched.rule), file)
        (whole, *_), (plain, *_) = (
            succeed("inspect", path, "--json").json["parts"]
            for path in (file, shop / "patched.safetensors")
        )
        assert whole == plain

    @pytest.mark.parametrize("share", [0.25, None, "much", 7])
    def test_gated_patches_cost_less_where_their_runs_are_recorded(
        self, shop: Shop, tmp_path: Path, share: object
    ) -> None:
        patched = load_as(PatchedModel, shop / "patched.safetensors")
        gated = [replace(part, gate=Gate("unsure", -1e9)) for part in patched.patches]
        file, model = tmp_path / "gated.safetensors", PatchedModel(patched.weak, gated)
        shares = {"run_share": dict.fromkeys(patched.targets, share)}
        save(model, file, details=shares if share else {})
        whole, *parts = succeed("inspect", file, "--json").json["parts"]
        if share != 0.25:
            assert len(parts) == len(gated)
            return
        weak = measure_cost(patched.weak, patched.input_shape).multiply_adds
        spread = whole["multiply_adds"] - weak
        assert parts[-1]["part"].startswith("patched, with its gates")
        assert parts[-1]["multiply_adds"] == pytest.approx(weak + spread / 4, abs=1)
        command = ("evaluate", file, "--data", shop / "data.npz")
        found = succeed(*command, "--json").json["cost"]
        assert found["model, with its gates"] == found["model"]
        timed = succeed(*command, "--latency", "--before", shop / "weak.safetensors").out
        images = np.load(shop / "data.npz")["y_test"].size
        assert f"Cost (the latency is that per image of {images} at once)" in timed
        rows = timed.partition("Cost (")[2].splitlines()[2:5]
        assert [row.partition("  ")[0] for row in rows] == [
            "before",
            "after",
            "after, with its gates",
        ]
        assert all(float(row.split()[-1]) > 0 for row in rows)

    def test_text_has_one_line_per_value(self, shop: Shop) -> None:
        lines = succeed("inspect", shop / "patched.safetensors").out.splitlines()
        assert lines[0] == f"{shop / 'patched.safetensors'}: patched"
        assert "  classes: bird, cat, dog, ship" in lines
        assert "    kind: min-max" in lines
        assert "    clip: no" in lines
        assert any(line.startswith("class module cat") and " of 22 " in line for line in lines)
        assert not any("{" in line or "[" in line for line in lines)


class TestSettingsFile:
    def test_sets_options_and_flags_win(self, shop: Shop, tmp_path: Path) -> None:
        file = tmp_path / "train.toml"
        file.write_text(
            f"data = {json.dumps(str(shop / 'data.npz'))}\nepochs = 2\nbatch-size = 20\n"
            "learning-rate = 0.03\njson = true\n"
        )
        out = tmp_path / "a.safetensors"
        succeed("train", "lenet5", "--settings", file, "--epochs", 1, "--out", out)
        training = describe(out)["details"]["training"]
        assert (training["epochs"], training["batch_size"]) == (1, 20)
        assert training["learning_rate"] == 0.03

    def test_has_a_table_for_what_no_option_sets(self, shop: Shop, tmp_path: Path) -> None:
        file, out = tmp_path / "train.toml", tmp_path / "a.safetensors"
        file.write_text(
            "kind = 'underfit'\nlearning-rate = 0.03\n"
            "[training]\nepochs = 4\nweight_decay = 0.01\nlearning_rate = 0.5\n"
        )
        succeed("train", "lenet5", "--data", shop / "data.npz", "--settings", file, "--out", out)
        changes = {"weight_decay": 0.01, "learning_rate": 0.03}
        wanted = Training.underfit(4).model_copy(update=changes)
        assert describe(out)["details"]["training"] == wanted.model_dump()

    def test_has_a_table_for_the_search(self, shop: Shop, tmp_path: Path) -> None:
        file = tmp_path / "split.toml"
        file.write_text(
            "generations = 1\n[genetic]\npopulation = 8\nparents = 4\nelites = 2\nalpha = 0.7\n"
            "generations = 9\n[genetic.thresholds]\n2 = 0.1\n"
        )
        succeed(
            *("split", shop / "strong.safetensors", "--settings", file, "--population", 4),
            *("--sensitivity", shop / "curves.json", "--data", shop / "data.npz"),
            *("--search-images", 20, "--out", tmp_path / "m"),
        )
        search = describe(tmp_path / "m" / "cat.safetensors")["details"]["search"]
        wanted = {"population": 4, "parents": 2, "elites": 1, "generations": 1, "alpha": 0.7}
        assert wanted.items() <= search.items()
        assert search["thresholds"] == {"2": 0.1}

    def test_names_options_as_the_command_line_does(self, shop: Shop, tmp_path: Path) -> None:
        file = tmp_path / "patch.toml"
        module = str(shop / "modules" / "cat.safetensors")
        file.write_text(
            f"with = [{json.dumps(module)}]\nrule = 'renormalise'\njson = true\n"
            "force-patch = true\n"
        )
        outcome = succeed(
            *("patch", shop / "weak.safetensors", "--settings", file),
            *("--data", shop / "data.npz", "--out", tmp_path / "p.safetensors"),
        )
        assert outcome.json["targets"] == ["cat"]
        assert describe(tmp_path / "p.safetensors")["rule"] == "renormalise"


class TestForce:
    def test_overwrites(self, shop: Shop, tmp_path: Path) -> None:
        for name in ("weak.safetensors", "curves.json"):
            (tmp_path / name).write_text("finished")
        train = ("train", "lenet5", "--data", shop / "data.npz", "--epochs", 1, "--seed", 1)
        succeed(*train, "--out", tmp_path / "weak.safetensors", "--force")
        assert (tmp_path / "weak.safetensors").read_bytes()[:8] != b"finished"
        curves = ("sensitivity", shop / "strong.safetensors", "--data", shop / "data.npz")
        succeed(*curves, "--search-images", 20, "--out", tmp_path / "curves.json", "--force")
        assert json.loads((tmp_path / "curves.json").read_text())

    def test_without_it_class_modules_are_kept_though_nothing_says_finished(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        (tmp_path / "dog.safetensors").write_text("mine")
        outcome = call(
            "split", shop / "strong.safetensors", "--data", shop / "data.npz", "--out", tmp_path
        )
        assert outcome.code == 2
        assert "dog.safetensors: exists already" in outcome.err
        assert (tmp_path / "dog.safetensors").read_text() == "mine"
