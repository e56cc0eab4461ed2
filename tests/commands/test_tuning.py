"""What follows the search, by command."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cnnsplitter.class_modules import ClassModule
from cnnsplitter.data import ImageSet
from cnnsplitter.finetuning import FineTuning, fine_tune
from shop import Shop, split, succeed


def test_fine_tuning_that_lowers_the_accuracy_is_not_kept(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(modules: dict[str, ClassModule], *_: Any, **__: Any) -> dict[str, ClassModule]:
        spoilt = copy.deepcopy(modules)
        for module in spoilt.values():
            for parameter in module.parameters():
                parameter.data.neg_()
        return spoilt

    monkeypatch.setattr("cnnsplitter.finetuning.fine_tune", spoil)
    options = ("--search", "importance", "--out")
    plain = succeed(*split(shop, *options, tmp_path / "plain", "--json")).json
    outcome = succeed(*split(shop, *options, tmp_path / "tuned", "--finetune-epochs", 1))
    assert "fine-tuning lowered the accuracy" in outcome.err
    result = json.loads((tmp_path / "tuned" / "split.json").read_text())
    assert [row["stage"] for row in result["tuning"]] == ["plain", "fine-tuned", "plain, kept"]
    assert result["composed_accuracy"] == plain["composed_accuracy"]


def test_fine_tuning_takes_some_of_the_images(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, float | None]] = []

    def listening(modules: Any, strong: Any, data: ImageSet, way: FineTuning, **more: Any) -> Any:
        told.append((len(data), way.learning_rate))
        return fine_tune(modules, strong, data, way, **more)

    monkeypatch.setattr("cnnsplitter.finetuning.fine_tune", listening)
    options = ("--search", "importance", "--finetune-epochs", 1)
    fewer = ("--finetune-images", 40, "--finetune-rate", 0.003)
    succeed(*split(shop, *options, *fewer, "--out", tmp_path / "some"))
    succeed(*split(shop, *options, "--out", tmp_path / "all"))
    assert told == [(40, 0.003), (168, None)]
