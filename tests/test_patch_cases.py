"""The patch experiments' cases, on a toy; their networks are trained elsewhere."""

from pathlib import Path

import pytest
from experiments.patch import EXPERIMENTS, recipe_of
from experiments.patch_cases import FITTINGS, Case
from experiments.patch_table import table
from experiments.score_cache import ScoreCache

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.patches import baselines
from cnnsplitter.training import Training
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
    assert len(lines) == 2 + 2 * len(rows)
    assert lines[0].startswith("| weak | patch | method | cases | precision")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_weak_model_has_a_recipe(name: str) -> None:
    for kind in EXPERIMENTS[name].weak:
        recipe = recipe_of(EXPERIMENTS[name], kind, 2)
        assert recipe.seed == 2
        assert set(EXPERIMENTS[name].targets) == set(recipe.patch.targets)
