"""The patch experiments' cases, on a toy; their networks are trained elsewhere."""

from pathlib import Path
from typing import Any

import pytest
from experiments import patch_cases
from experiments.patch import EXPERIMENTS, LONGER, Halfway, prepare, recipe_of
from experiments.patch_cases import FITTINGS, Case
from experiments.patch_first import HERE
from experiments.patch_gates import rows_of
from experiments.patch_page import PAGE, page
from experiments.patch_reading import reading, with_auto
from experiments.patch_table import FIGURES, table
from experiments.score_cache import ScoreCache

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.patches import baselines
from cnnsplitter.patches.fitting import Fitting
from cnnsplitter.patches.gating import DOUBTS
from cnnsplitter.progress import Step, silent
from cnnsplitter.training import Training, train
from observed import observations
from toys import class_module, classifier, splits


def test_a_case_gives_a_row_for_every_method(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(baselines, "FINE_TUNING", Training(epochs=1, batch_size=10))
    weak, strong = classifier(seed=1), classifier()
    modules = {"class-module": class_module(strong), "whole-strong": ClassModule.of(strong, "cat")}
    facts: dict[str, str | int | float] = {"weak": "toy", "seed": 0}
    cache = ScoreCache(tmp_path)
    rows = list(Case(weak, "cat", splits(60), modules, 100, facts, cache).rows())
    again = Case(weak, "cat", splits(60), modules, 100, facts).rows()
    assert list(again) == rows
    assert len(list(tmp_path.iterdir())) == 1  # of both modules, which keep the same
    names = [(row["patch"], row["method"]) for row in rows]
    patches = [(patch, method) for patch in modules for method in FITTINGS]
    assert names == [*patches, ("none", "last-layer"), ("none", "fine-tune")]
    assert len({row["f1_before"] for row in rows}) == 1
    for row in rows[:8]:
        assert 0 <= row["run_share"] <= 1  # type: ignore[operator]
        assert row["macs_weak"] <= row["macs_mean"]  # type: ignore[operator]
        assert row["macs_mean"] <= row["macs_weak"] + row["macs_patch"]  # type: ignore[operator]
    lines = table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert len(table([*rows, *({**row, "weak": "other"} for row in rows)]).splitlines()) == (
        2 + 3 * len(rows)
    )
    assert lines[0].startswith("| weak | patch | method | cases | precision")


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_auto_are_those_that_it_would_give(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    modules = {"whole-strong": ClassModule.of(classifier(seed=seed + 10), "cat")}
    case = Case(classifier(seed=seed), "cat", splits(60), modules, None, {"weak": "toy", "seed": 0})
    told = with_auto([row for row in case.rows() if row["patch"] != "none"])
    (derived,) = (row for row in told if row["method"] == "auto")
    monkeypatch.setattr(patch_cases, "FITTINGS", {"auto": Fitting("auto")})
    row = next(case.rows())
    assert row["method"] == "auto"
    for figure in FIGURES:
        assert row[f"{figure}_after"] == derived[f"{figure}_after"]


def test_auto_never_gives_the_target_for_the_others() -> None:
    def told(f1: float, other: float, method: str) -> dict[str, Any]:
        held_out = {"held_out_f1_change": f1, "held_out_other_change": other}
        return _row("class-module", method, 0 if method == "learned" else 1) | held_out

    for f1, other, taken in ((0.2, 0.1, 1), (0.2, 0.0, 0), (0.1, 0.9, 0), (0.3, 0.1, 1)):
        rows = with_auto([told(0.2, 0.0, "learned"), told(f1, other, "linear")])
        assert rows[-1]["f1_after"] == 0.5 + taken / 100, "the linear layer's points are 1"
        assert len(rows) == 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_weak_model_has_a_recipe(name: str) -> None:
    for kind in EXPERIMENTS[name].weak:
        recipe = recipe_of(EXPERIMENTS[name], kind, 2)
        assert recipe.seed == 2
        assert set(EXPERIMENTS[name].targets) == set(recipe.patch.targets)


def test_an_underfitted_model_is_left_on_the_way_to_an_overfitted_one(tmp_path: Path) -> None:
    start, images = classifier(), splits(60).train
    late, half = tmp_path / "late", tmp_path / "half"
    halfway = Halfway(late, half)
    stage, name = "train weak-cat", "weak-cat.checkpoint"
    settings = Training.overfit(4)
    train(
        start, images, None, settings, seed=0, checkpoint=late / name, progress=halfway, stage=stage
    )
    steps: list[Step] = []
    found, alone = (
        train(
            *(start, images, None, Training.underfit(4)),
            seed=0,
            checkpoint=checkpoint,
            progress=steps.append,
        )
        for checkpoint in (half / name, None)
    )
    assert len(steps) == 2  # of the one alone
    assert found.classifier.weights_digest() == alone.classifier.weights_digest()
    assert found.history == alone.history


def test_runs_of_a_kind_that_is_half_of_another_share_its_training(tmp_path: Path) -> None:
    places = {"cifar10": "a.npz", "cifar100": "b.npz"}
    for name, shares in {"paper": True, "lenet": False}.items():
        runs = prepare(EXPERIMENTS[name], 0, tmp_path / name, places, silent)
        assert (runs["overfit"].progress is not silent) == shares
        assert runs["underfit"].progress is silent


def test_no_doubt_opens_less_often_than_the_answers_change() -> None:
    shares = {
        str(row["doubt"]): float(row["run_share"])
        for row in rows_of(observations(600, blind=2.0), observations(600, seed=1, blind=2.0))
    }
    assert shares.keys() > {*DOUBTS, "logistic regression", "boosted trees"}
    changes = shares.pop("changes (oracle)")
    assert 0 < 0.9 * changes < min(shares.values())
    assert max(shares.values()) <= 1


def test_the_page_of_results_is_that_of_the_files() -> None:
    assert PAGE.read_text() == page(HERE / "results")


def _row(patch: str, method: str, points: float, target: str = "bird") -> dict[str, Any]:
    figures = {f"{name}_before": 0.5 for name in FIGURES}
    figures |= {f"{name}_after": 0.5 + points / 100 for name in FIGURES}
    who = {"weak": "simple", "target": target, "seed": 0, "patch": patch, "method": method}
    return {**who, **figures, "kept_kernels": 0.6, "run_share": 0.25}


@pytest.mark.parametrize(("ours", "whole", "gated"), [(20, 21, 19.5), (16, 20, 8), (-3, 20, -3)])
def test_goals_are_met_or_missed_by_the_figures(ours: float, whole: float, gated: float) -> None:
    rows = [
        _row("class-module", "learned", ours),
        _row("class-module", "learned-gated", gated),
        _row("whole-strong", "learned", whole),
        _row("whole-strong", "learned", 90, "cat"),  # no class module was tried there
    ]
    lines = reading("paper", rows)
    assert "2 of 90 weak models" in lines[0]
    assert "1 with class modules" in lines[0]
    goals = {"precision": 20, "recall": 12, "F1 of": 17, "other classes": 1.5}
    for name, goal in goals.items():
        (line,) = (line for line in lines if line.startswith("Goal") and name in line)
        assert f" {'met' if ours >= goal else 'missed'}, {ours:+.1f}." in line
    (none,) = (line for line in lines if "worse in none" in line)
    assert ("missed" in none) == (ours < 0)
    (kernels, gate) = (line for line in lines if line.startswith("Goal, 95 %"))
    assert ("missed" in kernels) == (ours < 0.95 * whole)
    assert ("missed" in gate) == (gated / ours < 0.95)
    assert any("ceiling" in line and f"{whole:+.1f} " in line for line in lines)


def test_class_modules_tuned_for_longer_are_held_against_the_others_of_their_cases() -> None:
    rows = [
        _row(patch, method, points, target)
        for target, more in (("bird", 0), ("cat", 10))
        for patch, points in (("class-module", 10 + more), ("whole-strong", 20 + more))
        for method in ("learned", "learned-gated")
    ]
    short = reading("paper", rows)
    rows += [_row(LONGER, method, 19.5) for method in ("learned", "learned-gated")]
    lines = reading("paper", rows)
    assert lines[: len(short)] == short, "the shorter tuning is read as before"
    longer = lines[len(short) :]
    assert "tried on 1 weak models" in longer[0]
    (share,) = (line for line in longer if "95 % of the gain by at most" in line)
    assert "met, 60 % of the kernels give 98 % of" in share, "19.5 of 20, on the bird alone"
    assert any("by class modules, learned" in line and "+10.0 " in line for line in longer)
