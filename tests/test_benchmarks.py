"""That every benchmark runs and prints one JSON line; how fast it is, is not tested."""

import json
from typing import Any

import pytest
import torch
from benchmarks import classes, generation, importance, memory
from benchmarks.plain import simcnn

TINY = ("--width", "0.05")


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_generation(capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--images", "20", "--population", "12", "--sample", "2", "--pairs", "2")
    few = ("--tournament-population", "4", "--tournament-images", "50")
    generation.main([*TINY, *small, *few])
    found = printed(capsys)
    assert found["same_winners"] is True
    assert found["scores_ratio"] > 0
    assert found["scores_ratio_bfloat16"] > 0
    assert found["tournament_ratio"] > 0
    assert found["cut_over_masks"] > 0


def test_masked_candidates_score_as_cut_ones() -> None:
    strong, channels, data = simcnn(0.125, 3, 6)
    generator = torch.Generator().manual_seed(0)
    keep = torch.stack([channels.random_selection(0.5, generator=generator).keep for _ in range(4)])
    owner = torch.tensor([0, 1, 2, 0])
    masked, cut = (
        score(strong, channels, data, owner, keep)
        for score in (generation.masked_scores, generation.plain_scores)
    )
    torch.testing.assert_close(masked, cut, rtol=1e-4, atol=1e-4)


def test_importance(capsys: pytest.CaptureFixture[str]) -> None:
    importance.main([*TINY, "--images", "10", "--loop-images", "10"])
    assert printed(capsys)["same"] is True


def test_memory(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main(["--population", "6", "--classes", "2", "--images", "20", "--generations", "1"])
    assert printed(capsys)["peak_gb"] > 0


def test_classes(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--classes", "2", "4", "--widths", "0.05", "0.1", "--population", "4")
    classes.main([*few, "--images-per-class", "4", "--sample", "2"])
    found = printed(capsys)
    assert [row["classes"] for row in found["by_classes"]] == [2, 4]
    assert found["by_kernels"][1]["kernels"] > found["by_kernels"][0]["kernels"]


@pytest.mark.large
def test_a_large_search_stays_under_two_gigabytes(capsys: pytest.CaptureFixture[str]) -> None:
    memory.main([])
    assert printed(capsys)["peak_gb"] < 2
