import json
from pathlib import Path

import pytest

from cnnsplitter.report import read_report
from shop import Shop, call, split, succeed


def test_a_front_has_a_folder_for_each_share_and_goes_on(shop: Shop, tmp_path: Path) -> None:
    options = ("--search", "importance", "--pareto", "0.4,0.8", "--json", "--out", tmp_path / "o")
    result = succeed(*split(shop, *options)).json
    assert result == json.loads((tmp_path / "o" / "pareto.json").read_text())
    assert [point["keep"] for point in result["points"]] == [0.8, 0.4]
    alone = ("--search", "importance", "--keep", 0.4, "--json", "--out", tmp_path / "alone")
    expected = succeed(*split(shop, *alone)).json
    point = result["points"][1]
    assert point["accuracy"] == expected["composed_accuracy"]
    shares = [row["kept_macs"] for row in expected["modules"]]
    assert point["kept_macs"] == pytest.approx(sum(shares) / len(shares))
    folder = tmp_path / "o" / point["folder"]
    module = (folder / "cat.safetensors").read_bytes()
    assert module == (tmp_path / "alone" / "cat.safetensors").read_bytes()
    assert "<svg" in (tmp_path / "o" / "pareto.svg").read_text()
    told = (tmp_path / "o" / "report.html").read_text()
    assert "Comparison of 2 runs" in told
    assert "<h2>Accuracy against multiply-adds</h2>" in told
    succeed("report", tmp_path / "o", "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == told
    assert point["folder"] == "keep-0.4"
    single = read_report(tmp_path / "alone" / "report.json")
    assert single.composed_accuracy == expected["composed_accuracy"]
    assert single.overlap == expected["overlap"]
    assert single.search["name"] == "importance"
    assert [row["of"] for row in single.data] == ["strong model"]
    assert "exists already" in call(*split(shop, *options)).err
    (tmp_path / "o" / "pareto.json").unlink()
    assert succeed(*split(shop, *options)).json == result
    (tmp_path / "o" / "pareto.json").unlink()
    assert "exists already" in call(*split(shop, *options, "--seed", 1)).err
    for broken in ("[]", "{}", '{"files": []}', '{"files": 5}', "7"):
        (tmp_path / "o" / "keep-0.8" / "split.json").write_text(broken)
        assert "is no result of a split; remove it" in call(*split(shop, *options)).err
