"""What follows the search, by command."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cnnsplitter.class_modules import ClassModule
from shop import Shop, succeed


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
    split = ("split", shop / "strong.safetensors", "--data", shop / "data.npz")
    options = ("--search", "importance", "--out")
    plain = succeed(*split, *options, tmp_path / "plain", "--json").json
    outcome = succeed(*split, *options, tmp_path / "tuned", "--finetune-epochs", 1)
    assert "fine-tuning lowered the accuracy" in outcome.err
    result = json.loads((tmp_path / "tuned" / "split.json").read_text())
    assert [row["stage"] for row in result["tuning"]] == ["plain", "fine-tuned", "plain, kept"]
    assert result["composed_accuracy"] == plain["composed_accuracy"]
