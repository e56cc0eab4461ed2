"""From training to the patch: what each command prints and writes."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.classifier import Classifier
from cnnsplitter.cost import measure_cost
from cnnsplitter.data import ImageSet, load_data
from cnnsplitter.evaluation import evaluate
from cnnsplitter.importance import Importance, measure_importance
from cnnsplitter.inference import predict
from cnnsplitter.patches.gating import Gate
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.saving import describe, load, load_as, save
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


class TestPatch:
    def test_compares_weak_and_patched(self, shop: Shop) -> None:
        result = shop.outcomes["patch"].json
        assert result["targets"] == ["cat"]
        assert result["before"] == shop.outcomes["weak"].json["test"]
        assert result["cost"]["patched"]["kernels"] > result["cost"]["weak"]["kernels"]
        assert load_as(PatchedModel, shop / "patched.safetensors").targets == ("cat",)
        assert describe(shop / "patched.safetensors")["details"]["metrics"] == result["rows"]

    def test_a_class_module_may_score_a_class_of_another_name(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        outcome = succeed(
            *("patch", shop / "weak.safetensors", "--data", shop / "data.npz", "--json"),
            *("--with", f"dog={shop / 'modules' / 'cat.safetensors'}"),
            *("--with", f"cat={shop / 'modules' / 'ship.safetensors'}"),
            *("--rule", "renormalise", "--out", tmp_path / "p.safetensors", "--force-patch"),
        )
        assert outcome.json["targets"] == ["dog", "cat"]
        patched = load_as(PatchedModel, tmp_path / "p.safetensors")
        assert [patch.module.source_class for patch in patched.patches] == ["cat", "ship"]

    def test_a_file_name_may_hold_an_equals_sign(self, shop: Shop, tmp_path: Path) -> None:
        odd = tmp_path / "dog=cat.safetensors"
        odd.write_bytes((shop / "modules" / "cat.safetensors").read_bytes())
        out = ("--out", tmp_path / "p.safetensors", "--json")
        data = ("--data", shop / "data.npz")
        weak = shop / "weak.safetensors"
        outcome = succeed("patch", weak, "--with", odd, *data, *out, "--force-patch")
        assert outcome.json["targets"] == ["cat"]

    def test_text_is_the_table_of_before_and_after(self, shop: Shop, tmp_path: Path) -> None:
        outcome = succeed(
            *("patch", shop / "weak.safetensors", "--data", shop / "data.npz", "--latency"),
            *("--with", shop / "modules" / "cat.safetensors", "--out", tmp_path / "p.safetensors"),
            "--force-patch",
        )
        (row,) = shop.outcomes["patch"].json["rows"]
        (line,) = (line for line in outcome.out.splitlines() if " recall " in line)
        assert line.split()[:2] == ["recall", f"{row['recall_before']:.3f}"]
        assert (
            f"cat ({row['n_target']} of {row['n_target'] + row['n_other']} images)" in outcome.out
        )
        assert "latency ms" in outcome.out
        assert "images became right" in outcome.out

    def test_writes_nothing_where_no_patch_helps(self, shop: Shop, tmp_path: Path) -> None:
        """The weak model itself is a class module that knows nothing new."""
        weak, out = shop / "weak.safetensors", tmp_path / "p.safetensors"
        module = tmp_path / "cat.safetensors"
        save(ClassModule.of(load_as(Classifier, weak), "cat"), module)
        outcome = call(
            *("patch", weak, "--with", module, "--data", shop / "data.npz", "--out", out)
        )
        assert outcome.code == 3
        assert "'cat': the patch is not shown to help on" in outcome.out
        assert "No patch is shown to help" in outcome.out
        assert not out.exists()

    def test_keeps_what_helps_and_says_what_gates_spare(self, shop: Shop, tmp_path: Path) -> None:
        """A strong model made of pixels: every class has a bright spot of its own."""
        out = tmp_path / "p.safetensors"
        weak, module = shop / "strong.safetensors", shop / "modules" / "cat.safetensors"
        arguments = ("--with", module, "--data", shop / "data.npz", "--gate", 0.5, "--force-patch")
        result = succeed("patch", weak, *arguments, "--out", out, "--json").json
        assert result["patched"] == ["cat"]
        assert result["guard"]["cat"]["helps"] in (True, False)
        assert 0 <= result["run_share"]["cat"] <= 1
        assert {"weak", "patched"} <= result["cost"].keys()
        made = describe(out)["details"]
        assert made["guard"] == result["guard"]
        assert made["run_share"] == result["run_share"]

    def test_patches_a_patched_model_and_takes_patches_away(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        weak, data = shop / "strong.safetensors", ("--data", shop / "data.npz", "--force-patch")
        one, two, both = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "both"))
        cat, dog = (("--with", shop / "modules" / f"{name}.safetensors") for name in ("cat", "dog"))
        succeed("patch", weak, *cat, *data, "--out", one)
        found = succeed("patch", one, *dog, *data, "--out", two, "--json").json
        assert found["patched"] == ["cat", "dog"]
        succeed("patch", weak, *cat, *dog, *data, "--out", both)
        first, second = (load_as(PatchedModel, path) for path in (two, both))
        assert first.calibrations == second.calibrations
        outcome = call("patch", one, *cat, *data, "--out", tmp_path / "x.safetensors")
        assert "class 'cat' is patched already" in outcome.err
        outcome = call("patch", shop / "composed.safetensors", *cat, *data, "--out", tmp_path / "x")
        assert "give a whole classifier" in outcome.err
        bare, left = tmp_path / "bare.safetensors", tmp_path / "left.safetensors"
        assert succeed("unpatch", two, "--class", "cat", "--out", left, "--json").json[
            "patched"
        ] == ["dog"]
        succeed("unpatch", two, "--out", bare)
        was, now = load_as(Classifier, weak).state_dict(), load_as(Classifier, bare).state_dict()
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)

    def test_adds_a_class_that_the_weak_model_lacks(self, shop: Shop, tmp_path: Path) -> None:
        weak, out = tmp_path / "three.safetensors", tmp_path / "p.safetensors"
        data, three = shop / "data.npz", f"{shop / 'data.npz'}[bird,cat,dog]"
        succeed("train", "lenet5", "--epochs", 1, "--data", three, "--out", weak)
        ship = ("--with", shop / "modules" / "ship.safetensors", "--force-patch")
        found = succeed("patch", weak, *ship, "--data", data, "--out", out, "--json").json
        (row,) = found["rows"]
        assert (row["target"], row["recall_before"]) == ("ship", 0)
        assert load_as(PatchedModel, out).classes == CLASSES
        again = succeed("evaluate", out, "--before", weak, "--data", data, "--json").json
        assert again["comparison"]["rows"] == found["rows"]

    def test_goes_on_where_the_class_to_be_added_is_dropped(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        weak, out = tmp_path / "three.safetensors", tmp_path / "p.safetensors"
        data, three = shop / "data.npz", f"{shop / 'data.npz'}[bird,cat,dog]"
        succeed("train", "lenet5", "--epochs", 1, "--data", three, "--out", weak)
        strong = load_as(Classifier, shop / "strong.safetensors")
        save(ClassModule.of(strong, "cat"), tmp_path / "cat.safetensors")
        torch.nn.init.zeros_(list(strong.net.parameters())[-1])
        torch.nn.init.zeros_(list(strong.net.parameters())[-2])
        save(ClassModule.of(strong, "ship"), tmp_path / "ship.safetensors")
        parts = [("--with", tmp_path / f"{name}.safetensors") for name in ("cat", "ship")]
        arguments = (*parts[0], *parts[1], "--data", data, "--out", out, "--floor", -1)
        found = succeed("patch", weak, *arguments, "--json").json
        assert found["patched"] == ["cat"]
        assert load_as(PatchedModel, out).classes == CLASSES[:3]

    def test_strong_needs_baselines(self, shop: Shop, tmp_path: Path) -> None:
        weak, strong = shop / "weak.safetensors", shop / "strong.safetensors"
        arguments = ("--with", strong, "--data", shop / "data.npz", "--strong", strong)
        outcome = call("patch", weak, *arguments, "--out", tmp_path / "p.safetensors")
        assert outcome.code == 2
        assert "add --baselines" in outcome.err

    def test_baselines_stand_beside_the_patch(self, shop: Shop, tmp_path: Path) -> None:
        arguments = (
            *("patch", shop / "weak.safetensors", "--with", shop / "modules" / "cat.safetensors"),
            *("--data", shop / "data.npz", "--baselines", "--strong", shop / "strong.safetensors"),
            *("--force-patch", "--out", tmp_path / "p.safetensors"),
        )
        rows = succeed(*arguments, "--json").json["baselines"]
        methods = ["patch", "whole strong", "random", "last layer", "fine-tuned"]
        assert [row["method"] for row in rows] == methods
        assert len({row["recall_before"] for row in rows}) == 1
        assert rows[0]["multiply_adds"] <= rows[1]["multiply_adds"]
        assert rows[3]["multiply_adds"] == rows[4]["multiply_adds"] < rows[0]["multiply_adds"]


class TestDiagnose:
    def test_finds_poor_classes_and_tries_class_modules(self, shop: Shop) -> None:
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz")
        result = succeed(*arguments, "--test", "--modules", shop / "modules", "--json").json
        assert result["images"] == "test"
        assert sorted(found["class"] for found in result["classes"]) == sorted(CLASSES)
        f1 = [found["f1"]["estimate"] for found in result["classes"]]
        assert f1 == sorted(f1)
        test = shop.outcomes["weak"].json["test"]
        for found in result["classes"]:
            index = test["classes"].index(found["class"])
            assert found["recall"]["estimate"] == pytest.approx(test["recall"][index])
        tried = {verdict["target"] for verdict in result["modules"]} | result["not_tried"].keys()
        assert tried == set(CLASSES)

    def test_text_names_confusions(self, shop: Shop) -> None:
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz")
        lines = succeed(*arguments).out.splitlines()
        assert any("taken for" in line and "mistaken for it" in line for line in lines)

    def test_looks_at_the_calibration_images(self, shop: Shop) -> None:
        """Those that a patch is reported on shall not choose it."""
        file = shop / "weak.safetensors"
        result = succeed("diagnose", file, "--data", shop / "data.npz", "--json").json
        images = load_data(str(shop / "data.npz")).calibration
        found = evaluate(load_as(Classifier, file), images)
        assert result["images"] == "calibration"
        for finding in result["classes"]:
            recall = found.recall[found.index(finding["class"])].item()
            assert finding["recall"]["estimate"] == pytest.approx(recall)

    def test_other_files_of_the_folder_are_named(self, shop: Shop, tmp_path: Path) -> None:
        for name in ("modules/cat", "strong"):
            source = shop / f"{name}.safetensors"
            (tmp_path / source.name).write_bytes(source.read_bytes())
        (tmp_path / "odd.safetensors").write_bytes(b"no model")
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz")
        found = succeed(*arguments, "--modules", tmp_path, "--json").json
        assert found["not_tried"].keys() >= {"strong.safetensors", "odd.safetensors"}
        assert "of the kind classifier" in found["not_tried"]["strong.safetensors"]
        copy = tmp_path / "cat2.safetensors"
        copy.write_bytes((shop / "modules" / "cat.safetensors").read_bytes())
        outcome = call(*arguments, "--modules", tmp_path)
        assert outcome.code == 2
        assert "are both class modules of 'cat'; keep one there" in outcome.err

    def test_a_folder_without_class_modules_is_named(self, shop: Shop, tmp_path: Path) -> None:
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz")
        outcome = call(*arguments, "--modules", tmp_path)
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: {tmp_path}: no class modules there")


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
        found = succeed("evaluate", file, "--data", shop / "data.npz", "--json").json["cost"]
        assert found["model, with its gates"] == found["model"]

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
