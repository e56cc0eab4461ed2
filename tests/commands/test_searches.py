"""``split`` with other searches, with tuning, and for a sub-task."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cnnsplitter.class_modules import ClassModule, compose
from cnnsplitter.classifier import Classifier
from cnnsplitter.commands.completing import SEARCHES as LISTED
from cnnsplitter.commands.options import _TABLES
from cnnsplitter.compensation.compensating import compensate
from cnnsplitter.data import load_data
from cnnsplitter.evaluation import evaluate
from cnnsplitter.finetuning import FineTuning, fine_tune
from cnnsplitter.recalibration import recalibrate
from cnnsplitter.search import (
    SEARCHES,
    GeneticSearch,
    SearchProblem,
    SearchResult,
    ThresholdSearch,
)
from cnnsplitter.splitting import trace
from cnnsplitter.storage.saving import describe, load_as
from cnnsplitter.subtasks.networks import Subtask, restrict
from cnnsplitter.taylor import measure_taylor
from shop import CLASSES, Shop, call, files_in, split, succeed


def test_all_searches_are_listed_and_have_a_table() -> None:
    assert list(SEARCHES) == list(LISTED) == list(_TABLES["split"])


@pytest.mark.parametrize("search", ["importance", "random"])
def test_baselines_keep_the_share(search: str, shop: Shop, tmp_path: Path) -> None:
    options = ("--search", search, "--keep", 0.6, "--tries", 2, "--json", "--out", tmp_path)
    result = succeed(*split(shop, *options)).json
    assert all(0.3 < row["kept_kernels"] <= 0.6 for row in result["modules"])
    made = describe(tmp_path / "cat.safetensors")["details"]["search"]
    assert (made["name"], made["keep"], made["tries"]) == (search, 0.6, 2)
    assert "tuning" not in result


def test_the_share_may_be_of_multiply_adds(shop: Shop, tmp_path: Path) -> None:
    target = ("--search", "importance", "--keep", 0.6, "--target", "multiply-adds")
    result = succeed(*split(shop, *target, "--json", "--out", tmp_path)).json
    assert all(0.3 < row["kept_macs"] <= 0.6 for row in result["modules"])
    outcome = call(*split(shop, "--search", "genetic", *target[4:], "--out", tmp_path / "no"))
    assert outcome.code == 2
    assert "the search 'genetic' has no option 'target'" in outcome.err
    outcome = call(*split(shop, *target[:5], "kernel", "--out", tmp_path / "no"))
    assert outcome.code == 2
    assert "importance: target" in outcome.err


def test_settings_files_have_a_table_per_search(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("search = 'importance'\n[importance]\nscale = 'rank'\n")
    succeed(*split(shop, "--settings", tmp_path / "s.toml", "--out", tmp_path / "m"))
    made = describe(tmp_path / "m" / "cat.safetensors")["details"]["search"]
    assert (made["name"], made["scale"]) == ("importance", "rank")


def test_fine_tuning_is_reported_apart_from_the_plain_result(shop: Shop, tmp_path: Path) -> None:
    options = ("--search", "importance", "--out")
    plain = succeed(*split(shop, *options, tmp_path / "plain", "--json")).json
    outcome = succeed(
        *split(shop, *options, tmp_path / "tuned", "--recalibrate", "--finetune-epochs", 2)
    )
    assert "the strong model has no batch norm" in outcome.err
    result = json.loads((tmp_path / "tuned" / "split.json").read_text())
    assert result["plain_composed_accuracy"] == plain["composed_accuracy"]
    assert result["modules"] == plain["modules"]
    assert [row["stage"] for row in result["tuning"]] == ["plain", "fine-tuned"]
    strong = load_as(Classifier, shop / "strong.safetensors")
    data = load_data(shop / "data.npz")
    before = {n: load_as(ClassModule, tmp_path / "plain" / f"{n}.safetensors") for n in CLASSES}
    after = fine_tune(before, strong, data.train, FineTuning(epochs=2), seed=0)
    for modules, row in zip((before, after), result["tuning"], strict=True):
        composed = compose(modules)
        assert row["search_accuracy"] == evaluate(composed, data.search).accuracy
        assert row["calibration_accuracy"] == evaluate(composed, data.calibration).accuracy
    assert result["composed_accuracy"] == evaluate(compose(after), data.test).accuracy
    saved = load_as(ClassModule, tmp_path / "tuned" / "cat.safetensors")
    pairs = zip(saved.parameters(), after["cat"].parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    made = describe(tmp_path / "tuned" / "cat.safetensors")["details"]
    assert made["tuning"] == result["tuning"]
    figures = ("strong_accuracy", "composed_accuracy", "plain_composed_accuracy")
    assert set(made["metrics"]) == set(figures)
    assert made["metrics"]["composed_accuracy"] == result["composed_accuracy"]
    assert "fine-tuned" in outcome.out


def test_recalibration_is_reported_too(shop: Shop, tmp_path: Path) -> None:
    data, strong = ("--data", shop / "data.npz"), tmp_path / "strong.safetensors"
    succeed("train", "resnet20", *data, "--epochs", 1, "--width", 0.1, "--out", strong)
    options = ("--search", "importance", *data)
    succeed("split", strong, *options, "--out", tmp_path / "plain")
    result = succeed(
        *("split", strong, *options, "--recalibrate", "--json", "--out", tmp_path / "tuned")
    ).json
    assert [row["stage"] for row in result["tuning"]] == ["plain", "recalibrated"]
    plain = load_as(ClassModule, tmp_path / "plain" / "cat.safetensors")
    saved = load_as(ClassModule, tmp_path / "tuned" / "cat.safetensors")
    expected = recalibrate(plain, load_data(shop / "data.npz").train, seed=0)
    buffers = zip(saved.buffers(), expected.buffers(), strict=True)
    assert all(torch.equal(a, b) for a, b in buffers)


def test_compensation_is_reported_too(shop: Shop, tmp_path: Path) -> None:
    options = ("--search", "importance", "--json", "--out")
    plain = succeed(*split(shop, *options, tmp_path / "plain")).json
    result = succeed(*split(shop, *options, tmp_path / "better", "--compensate")).json
    assert [row["stage"] for row in result["tuning"]] == ["plain", "compensated"]
    assert result["plain_composed_accuracy"] == plain["composed_accuracy"]
    assert result["modules"] == plain["modules"]
    strong = load_as(Classifier, shop / "strong.safetensors")
    cut = {"cat": load_as(ClassModule, tmp_path / "plain" / "cat.safetensors")}
    train = load_data(shop / "data.npz").train
    expected = compensate(cut, strong, trace(strong), train, seed=0)["cat"]
    saved = load_as(ClassModule, tmp_path / "better" / "cat.safetensors")
    pairs = zip(saved.state_dict().values(), expected.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("more", [(), ("--subtask", "cat,dog", "--no-compare")])
def test_units_are_ranked_by_taylor_importance(
    more: tuple[object, ...], shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SearchProblem] = []
    draw = ThresholdSearch.draw

    def listening(search: ThresholdSearch, problem: SearchProblem, *ways: Any) -> Tensor:
        given.append(problem)
        return draw(search, problem, *ways)

    monkeypatch.setattr(ThresholdSearch, "draw", listening)
    options = ("--search", "importance", "--keep", 0.5, *more, "--out")
    succeed(*split(shop, *options, tmp_path / "by", "--importance", "taylor"))
    succeed(*split(shop, *options, tmp_path / "maps"))
    taylor, maps = given
    assert not torch.equal(taylor.importance, maps.importance)
    strong = load_as(Classifier, shop / "strong.safetensors")
    train = load_data(shop / "data.npz").train
    if more:
        strong, train = restrict(strong, ("cat", "dog")), train.relabel(("cat", "dog"))
    expected = measure_taylor(strong, trace(strong), train).scores
    expected = expected.sum(0, keepdim=True) if more else expected
    assert torch.allclose(taylor.importance, expected, rtol=1e-4)


def test_a_search_begins_near_an_earlier_split(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[SearchProblem] = []
    run = GeneticSearch.run

    def listening(search: GeneticSearch, problem: SearchProblem, **ways: Any) -> SearchResult:
        given.append(problem)
        return run(search, problem, **ways)

    monkeypatch.setattr(GeneticSearch, "run", listening)
    small = ("--population", 4, "--generations", 1, "--search-images", 20)
    options = (*small, "--sensitivity", shop / "curves.json", "--out", tmp_path)
    succeed(*split(shop, *options, "--start", shop / "modules"))
    modules = [load_as(ClassModule, shop / "modules" / f"{n}.safetensors") for n in CLASSES]
    (problem,) = given
    assert problem.start is not None
    for row, module in zip(problem.start, modules, strict=True):
        assert module.selection is not None
        assert torch.equal(row, module.selection.keep)


TINY = "[gradient]\nrounds = 1\nsteps = 2\nanneal = 1\nstart_pairs = 8\n"


def test_the_default_is_the_gradient_search_with_compensation(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(TINY)
    options = ("--settings", tmp_path / "s.toml", "--keep", 0.6, "--json", "--out")
    found = succeed(*split(shop, *options, tmp_path / "by-default")).json
    named = ("--search", "gradient", "--compensate")
    assert (
        succeed(*split(shop, *options, tmp_path / "named", *named)).json["modules"]
        == (found["modules"])
    )
    assert [row["stage"] for row in found["tuning"]] == ["plain", "compensated"]
    made = describe(tmp_path / "by-default" / "cat.safetensors")["details"]["search"]
    assert (made["name"], made["keep"], made["rounds"]) == ("gradient", 0.6, 1)
    modules = [(tmp_path / n / "cat.safetensors").read_bytes() for n in ("by-default", "named")]
    assert modules[0] == modules[1]
    plain = succeed(*split(shop, *options, tmp_path / "plain", "--no-compensate")).json
    assert "tuning" not in plain
    assert plain["composed_accuracy"] == found["plain_composed_accuracy"]


@pytest.mark.parametrize(
    "options",
    [
        ("--population", 4, "--generations", 1),
        ("--settings", "genetic.toml"),
        ("--generations", 1, "--settings", "both.toml"),
    ],
)
def test_what_only_the_genetic_search_has_means_it(
    options: tuple[object, ...], shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    genetic = "[genetic]\npopulation = 4\nparents = 2\nelites = 1\ngenerations = 1\n"
    Path("genetic.toml").write_text(genetic)
    Path("both.toml").write_text(genetic + TINY)
    result = succeed(*split(shop, "--search-images", 20, *options, "--out", "m", "--json")).json
    made = describe(Path("m/cat.safetensors"))["details"]["search"]
    assert (made["name"], made["population"]) == ("genetic", 4)
    assert "tuning" not in result


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


class TestSubtask:
    def test_writes_one_network_and_compares_it(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--search", "importance", "--subtask", "ship, cat", "--out", tmp_path)
        outcome = succeed(*split(shop, *options, "--json"))
        result = json.loads((tmp_path / "subtask.json").read_text())
        assert result == outcome.json
        results = ["report.html", "report.json", "subtask.json", "subtask.safetensors"]
        assert sorted(files_in(tmp_path)) == ["events.jsonl", *results]
        network = load_as(Subtask, tmp_path / "subtask.safetensors")
        assert network.classes == ("ship", "cat")
        images = load_data(shop / "data.npz").test.relabel(network.classes)
        rows = {row["model"]: row for row in result["models"]}
        assert set(rows) == {"strong model", "sub-task", "class modules"}
        assert rows["sub-task"]["accuracy"] == evaluate(network, images).accuracy
        assert rows["class modules"]["macs"] > rows["sub-task"]["macs"]
        made = describe(tmp_path / "subtask.safetensors")["details"]
        assert made["search"]["name"] == "importance"
        strong = load_as(Classifier, shop / "strong.safetensors")
        assert made["strong_weights"] == strong.weights_digest()
        data = ("--data", f"{shop / 'data.npz'}[ship,cat]", "--json")
        test = succeed("evaluate", tmp_path / "subtask.safetensors", *data).json["model"]
        assert test["accuracy"] == rows["sub-task"]["accuracy"]
        shown = succeed("inspect", tmp_path / "subtask.safetensors", "--json").json
        assert (shown["kind"], shown["net"]["classes"]) == ("subtask", ["ship", "cat"])

    def test_workers_and_the_gradient_search_do_it_too(self, shop: Shop, tmp_path: Path) -> None:
        (tmp_path / "s.toml").write_text("[gradient]\nrounds = 1\nsteps = 2\nanneal = 1\n")
        options = ("--settings", tmp_path / "s.toml", "--subtask", "cat,dog", "--no-compare")
        gradient = (*options, "--search", "gradient", "--keep", 0.6, "--json", "--out")
        here = succeed(*split(shop, *gradient, tmp_path / "here")).json
        spread = succeed(*split(shop, *gradient, tmp_path / "spread", "--workers", 1)).json
        assert here["kept_kernels"] == spread["kept_kernels"] <= 0.6
        assert here["models"] == spread["models"]

    def test_an_interrupted_comparison_goes_on(
        self, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = ("--search", "random", "--tries", 2, "--subtask", "cat,dog", "--out", tmp_path)

        with monkeypatch.context() as patch:
            patch.setattr("cnnsplitter.splitting.class_modules", interrupted)
            call(*split(shop, *task))
        kept = tmp_path / "class-modules.checkpoint"
        assert kept.exists()
        searched = (tmp_path / "events.jsonl").read_text().count('"search"')
        succeed(*split(shop, *task))
        assert (tmp_path / "events.jsonl").read_text().count('"search"') == searched
        assert not kept.exists()

    def test_one_that_was_stopped_before_its_report_goes_on(
        self, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = ("--search", "random", "--tries", 2, "--subtask", "cat,dog", "--no-compare")

        with monkeypatch.context() as patch:
            patch.setattr("cnnsplitter.report.report_subtask", interrupted)
            call(*split(shop, *task, "--out", tmp_path))
        saved = (tmp_path / "subtask.safetensors").read_bytes()
        succeed(*split(shop, *task, "--out", tmp_path))
        assert (tmp_path / "report.html").exists()
        assert (tmp_path / "subtask.safetensors").read_bytes() == saved
        again = call(*split(shop, *task, "--out", tmp_path))
        assert "subtask.safetensors: exists already" in again.err

    def test_test_images_are_missed_before_the_search(self, shop: Shop, tmp_path: Path) -> None:
        with np.load(shop / "data.npz") as known:
            arrays = dict(known)
        birds = arrays["y_test"] == 0
        arrays |= {key: arrays[key][birds] for key in ("x_test", "y_test")}
        np.savez(tmp_path / "few.npz", **arrays)
        strong, data = shop / "strong.safetensors", tmp_path / "few.npz"
        out = tmp_path / "out"
        outcome = call("split", strong, "--data", data, "--subtask", "cat,dog", "--out", out)
        assert outcome.code == 2
        assert "no test images" in outcome.err
        assert not out.exists()

    def test_tuning_is_reported_apart(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--search", "importance", "--subtask", "ship,cat", "--no-compare", "--json")
        plain = succeed(*split(shop, *options, "--out", tmp_path / "plain")).json
        tuned = succeed(
            *split(shop, *options, "--finetune-epochs", 1, "--out", tmp_path / "tuned")
        ).json
        before, after = ({row["model"]: row for row in r["models"]} for r in (plain, tuned))
        assert after["strong model"] == before["strong model"]
        assert after["plain sub-task"] == before["sub-task"] | {"model": "plain sub-task"}
        assert [row["stage"] for row in tuned["tuning"]] == ["plain", "fine-tuned"]
        network = load_as(Subtask, tmp_path / "tuned" / "subtask.safetensors")
        images = load_data(shop / "data.npz").relabel(network.classes)
        assert tuned["tuning"][1]["search_accuracy"] == evaluate(network, images.search).accuracy
        assert after["sub-task"]["accuracy"] == evaluate(network, images.test).accuracy
        made = describe(tmp_path / "tuned" / "subtask.safetensors")["details"]
        assert made["metrics"]["sub-task"] == after["sub-task"]["accuracy"]
        assert made["tuning"] == tuned["tuning"]

    def test_the_comparison_can_be_left_out(self, shop: Shop, tmp_path: Path) -> None:
        options = ("--population", 4, "--generations", 1, "--search-images", 20, "--no-compare")
        outcome = succeed(*split(shop, "--subtask", "cat,dog", *options, "--out", tmp_path))
        result = json.loads((tmp_path / "subtask.json").read_text())
        assert [row["model"] for row in result["models"]] == ["strong model", "sub-task"]
        assert "sub-task" in outcome.out
        assert f"Written to {tmp_path / 'subtask.safetensors'}" in outcome.out
        again = call(*split(shop, "--subtask", "cat,dog", *options, "--out", tmp_path))
        assert again.code == 2
        assert "exists already" in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--search", "genetc"), "unknown search 'genetc'; did you mean 'genetic'"),
        (
            ("--search", "genetic", "--keep", 0.5),
            "the search 'genetic' has no option 'keep'; these have: gradient, importance",
        ),
        (
            ("--population", 9, "--keep", 0.5),
            "the search 'genetic' has no option 'keep'; these have: gradient, importance",
        ),
        (
            ("--tries", 2),
            "the search 'gradient' has no option 'tries'; these have: importance, random",
        ),
        (("--search", "random", "--population", 9), "no option 'population'; these have: genetic"),
        (("--search", "random", "--keep", 1.5), "random: keep"),
        (("--search", "random", "--preset", "simcnn-svhn"), "--preset is a setting of the genetic"),
        (("--importance", "tailor"), "unknown importance 'tailor'; did you mean 'taylor'"),
        (("--search", "random", "--importance", "taylor"), "'random' ranks no units by it"),
        (("--search", "genetic", "--pareto", "0.8,0.6"), "needs a search with the option 'keep'"),
        (("--search", "random", "--pareto", "0.8,2"), "must be shares between 0 and 1"),
        (("--search", "random", "--pareto", ".5", "--keep", 0.5), "give one of the two"),
        (("--subtask", "cat,dog", "--pareto", ".5"), "does not go with --subtask"),
        (("--search", "random", "--start", "m"), "--start is a setting of the genetic search"),
        (
            ("--search", "gradient", "--sensitivity", "c.json"),
            "--sensitivity is a setting of the genetic search, not of 'gradient'",
        ),
        (
            ("--preset", "simcnn-svhn", "--sensitivity", "c.json"),
            "--sensitivity says which ratios the search starts from, and so do its settings",
        ),
        (("--finetune-images", 40), "--finetune-images has no use without --finetune-epochs"),
        (("--finetune-rate", 0.1), "--finetune-rate has no use without --finetune-epochs"),
        (("--finetune-epochs", 1, "--finetune-rate", 0), "must be above 0, not 0"),
        (("--finetune-epochs", 1, "--finetune-rate", "nan"), "must be above 0, not nan"),
        (("--no-compare",), "--compare has no use without --subtask"),
        (("--start", "nowhere"), "nowhere: holds no class module of 'bird'"),
        (("--subtask", "cat"), "at least two classes"),
        (("--subtask", "cat,dgo"), "unknown class of the strong model 'dgo'"),
        (("--subtask", "cat,dog", "--engine", "rey"), "unknown engine 'rey'"),
        (("--subtask", "cat,dog", "--ray-address", "auto"), "needs --engine ray"),
        (("--subtask", "cat,dog", "--model", "resnet20"), "must be package.module:factory"),
        (("--subtask", "cat,dog", "--sensitivity", "c.json"), "--sensitivity is of class modules"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: tuple[object, ...], message: str, shop: Shop, tmp_path: Path
) -> None:
    outcome = call(*split(shop, *options, "--out", tmp_path / "m"))
    assert outcome.code == 2
    assert message in outcome.err
    assert not (tmp_path / "m").exists()
