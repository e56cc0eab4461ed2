"""The report that ``split`` leaves beside class modules."""

import json
from pathlib import Path

import pytest

from cnnsplitter.report import read_report
from shop import CLASSES, Shop, call, split, succeed


def test_it_tells_what_the_split_found_and_from_which_curves(shop: Shop) -> None:
    report = read_report(shop / "modules" / "report.json")
    result = json.loads((shop / "modules" / "split.json").read_text())
    curves = json.loads((shop / "curves.json").read_text())
    assert report.strong_accuracy == result["strong_accuracy"]
    assert report.modules == result["modules"]
    assert report.sensitivity == curves
    assert report.start_ratios == curves["start_ratios"]
    assert report.layers == list(curves["accuracy"])
    assert len(report.history) == 2
    assert report.history[-1].kept_macs is not None
    kernels = [row["kept_kernels"] for row in result["modules"]]
    for shares, kept in zip(report.kept, kernels, strict=True):
        assert min(shares) <= kept <= max(shares)


def test_it_tells_models_data_settings_and_costs(shop: Shop) -> None:
    report = read_report(shop / "modules" / "report.json")
    assert report.strong_model == "lenet5"
    (data,) = report.data
    assert data["source"] == str(shop / "data.npz")
    assert data["test"] == 20 * len(CLASSES)
    assert report.recipe["seed"] == 0
    assert report.search["name"] == "genetic"
    assert report.search["population"] == 6
    assert report.search["compensated"] is False
    assert [row["model"] for row in report.costs] == ["strong", "composed"]
    page = (shop / "modules" / "report.html").read_text()
    assert "<title>CNNSplitter: Split of strong.safetensors</title>" in page
    assert "Weak model" not in page


def test_compensation_is_told_and_runs_are_compared_with_splits(shop: Shop, tmp_path: Path) -> None:
    quick = ("--search", "importance", "--keep", 0.5, "--compensate", "--out", tmp_path / "o")
    succeed(*split(shop, *quick))
    report = read_report(tmp_path / "o" / "report.json")
    assert report.search["compensated"] is True
    assert [row["stage"] for row in report.recipe["tuning"]] == ["plain", "compensated"]
    assert report.start_ratios == {}
    assert report.sensitivity is None
    page = tmp_path / "both.html"
    succeed("report", tmp_path / "o", shop / "modules", "--out", page)
    assert "<td>importance, compensated</td>" in page.read_text()
    refused = call(
        "report", tmp_path / "o", "--out", page, "--picture", tmp_path / "p.svg", "--force"
    )
    assert "has no patch to draw" in refused.err


@pytest.mark.parametrize("name", ["report.json", "report.html"])
def test_it_is_written_anew_with_force(name: str, shop: Shop, tmp_path: Path) -> None:
    quick = ("--search", "importance", "--keep", 0.5, "--out", tmp_path)
    succeed(*split(shop, *quick))
    (tmp_path / name).write_text("old")
    succeed(*split(shop, *quick, "--force"))
    assert (tmp_path / name).read_text() != "old"


def test_a_sub_task_has_one_network_and_is_held_against_other_ways(
    shop: Shop, tmp_path: Path
) -> None:
    ways = ("--subtask", "cat,dog", "--population", 4, "--generations", 2, "--seed", 5)
    succeed(*split(shop, *ways, "--search-images", 20, "--out", tmp_path / "task"))
    result = json.loads((tmp_path / "task" / "subtask.json").read_text())
    report = read_report(tmp_path / "task" / "report.json")
    assert report.subtask == ["cat", "dog"]
    assert report.classes == ["cat+dog"]
    assert report.ways == result["models"]
    assert [row["model"] for row in report.ways] == ["strong model", "sub-task", "class modules"]
    assert report.composed_accuracy == report.ways[1]["accuracy"]
    assert report.modules[0]["kept_macs"] == report.ways[1]["kept_macs"]
    assert report.sensitivity is not None
    assert report.recipe["seed"] == 5
    page = (tmp_path / "task" / "report.html").read_text()
    assert "One network for 2 classes" in page
    assert "Overlap between class modules" not in page
    succeed("report", tmp_path / "task", shop / "modules", "--out", tmp_path / "both.html")
    assert "composed or sub-task" in (tmp_path / "both.html").read_text()
