"""Patching and diagnosing: what the commands print and write."""

from pathlib import Path

import pytest
import torch

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.classifier import Classifier
from cnnsplitter.data import load_data
from cnnsplitter.evaluation import evaluate
from cnnsplitter.patches.patching import PatchedModel
from cnnsplitter.storage.saving import describe, load_as, save
from shop import CLASSES, Shop, call, succeed


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

    def test_a_page_tells_the_evidence(self, shop: Shop, tmp_path: Path) -> None:
        parts = ("--with", shop / "modules/cat.safetensors", "--force-patch")
        page, out = tmp_path / "p.html", tmp_path / "p.safetensors"
        options = ("--data", shop / "data.npz", "--report", page, "--out", out, "--json")
        (row,) = succeed("patch", shop / "weak.safetensors", *parts, *options).json["rows"]
        text = page.read_text()
        assert "<h1>Patch of weak.safetensors</h1>" in text
        assert f"{100 * row['f1_before']:.1f}" in text
        assert "What the patch of cat changed" in text
        assert "brought together by: learned, renormalise." in text
        assert "held-out calibration images the patch is" in text
        assert "Class modules" not in text
        again = call("patch", shop / "weak.safetensors", *parts, *options)
        assert again.code == 2
        assert "exists already" in again.err
        assert succeed("patch", shop / "weak.safetensors", *parts, *options, "--force").out

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

    def test_says_which_calibration_held_out_images_favour(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        parts = ("--with", shop / "modules/cat.safetensors", "--data", shop / "data.npz")
        options = ("--calibration", "auto", "--force-patch", "--out")
        one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
        text = succeed("patch", shop / "weak.safetensors", *parts, *options, one).out
        found = succeed("patch", shop / "weak.safetensors", *parts, *options, two, "--json").json
        (kind,) = found["calibration"]
        assert kind in ("learned", "linear")
        assert f"Calibration: {kind}." in text
        assert load_as(PatchedModel, two).calibrations[0].kind == kind

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
        made, rest = (describe(path)["details"] for path in (two, left))
        assert rest["guard"] == {"dog": made["guard"]["dog"]}
        assert rest["run_share"] == {"dog": made["run_share"]["dog"]}
        assert rest["unpatched"] == two.name
        succeed("unpatch", two, "--out", bare)
        assert describe(bare)["details"].keys() == {"versions", "unpatched"}
        was, now = load_as(Classifier, weak).state_dict(), load_as(Classifier, bare).state_dict()
        assert was.keys() == now.keys()
        assert all(torch.equal(was[name], now[name]) for name in was)

    def test_adds_a_class_that_the_weak_model_lacks(self, shop: Shop, tmp_path: Path) -> None:
        weak, out = tmp_path / "three.safetensors", tmp_path / "p.safetensors"
        data, three = shop / "data.npz", f"{shop / 'data.npz'}[bird,cat,dog]"
        succeed("train", "lenet5", "--epochs", 1, "--data", three, "--out", weak)
        ship = ("--with", shop / "modules" / "ship.safetensors", "--force-patch")
        arguments = ("--data", data, "--out", out, "--baselines", "--json")
        outcome = succeed("patch", weak, *ship, *arguments)
        found = outcome.json
        assert [row["method"] for row in found["baselines"]] == ["patch"]
        assert "'whole strong' and 'random': they need --strong" in outcome.err
        assert "'fine-tuned': the weak model has no output for ship" in outcome.err
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

    def test_what_does_not_exist_is_named(self, shop: Shop, tmp_path: Path) -> None:
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz")
        outcome = call(*arguments, "--modules", tmp_path / "none")
        assert outcome.code == 2
        assert f"{tmp_path / 'none'}: no such class module or folder of them" in outcome.err

    def test_takes_files_beside_folders_and_classes_of_other_names(
        self, shop: Shop, tmp_path: Path
    ) -> None:
        cat, ship = (shop / "modules" / f"{name}.safetensors" for name in ("cat", "ship"))
        (tmp_path / "ship.safetensors").write_bytes(ship.read_bytes())
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz", "--json")
        modules = ("--modules", tmp_path, "--modules", cat)
        found = succeed(*arguments, *modules, "--modules", f"dog={cat}").json
        tried = {verdict["target"] for verdict in found["modules"]} | found["not_tried"].keys()
        assert tried == {"cat", "dog", "ship"}
        outcome = call(*arguments, *modules, "--modules", shop / "modules")
        assert outcome.code == 2
        assert "--modules names two class modules of" in outcome.err

    def test_takes_class_modules_of_the_zoo(self, shop: Shop) -> None:
        arguments = ("diagnose", shop / "weak.safetensors", "--data", shop / "data.npz", "--json")
        found = succeed(*arguments, "--modules", "zoo:rescnn-cifar10-horse").json
        assert found["not_tried"] == {"horse": "no such class in the data"}

    def test_a_patched_model_is_looked_at_with_its_patches(self, shop: Shop) -> None:
        patched = shop / "patched.safetensors"
        arguments = ("diagnose", patched, "--data", shop / "data.npz", "--json")
        outcome = succeed(*arguments, "--modules", shop / "modules")
        assert "patched classes may look too good" in outcome.err
        found = outcome.json
        assert found["not_tried"]["cat"] == "the class is patched already; unpatch"
        tried = {verdict["target"] for verdict in found["modules"]} | found["not_tried"].keys()
        assert tried == set(CLASSES)
        images = load_data(str(shop / "data.npz")).calibration
        recall = evaluate(load_as(PatchedModel, patched), images).recall
        for finding in found["classes"]:
            expected = recall[images.classes.index(finding["class"])].item()
            assert finding["recall"]["estimate"] == pytest.approx(expected)
