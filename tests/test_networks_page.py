"""The docs page of the studied networks says what was recorded, and the record is sound."""

from pathlib import Path

import pytest
from experiments.network_page import page
from experiments.networks import PAGE, RESULTS, study

from cnnsplitter.results import Row, read_json

ROWS: list[Row] = read_json(RESULTS)["rows"]


def test_the_page_is_the_recorded_one() -> None:
    assert Path(PAGE).read_text() == page(read_json(RESULTS))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row["network"]))
def test_every_recorded_network_is_exact_or_refused_with_a_reason(row: Row) -> None:
    if row["refused"] is not None:
        assert len(str(row["refused"])) > 20
        return
    assert isinstance(row["error"], float)
    assert row["error"] < 1e-9
    assert row["selectable"] == 1 or row["frozen"]


def test_a_network_is_studied_as_recorded() -> None:
    pytest.importorskip("torchvision.models", reason="torchvision cannot be imported")
    row = study("torchvision:squeezenet1_1")
    (recorded,) = (r for r in ROWS if r["network"] == row["network"])
    for name in ("parameters", "kernels", "units", "selectable", "kernels_per_unit", "frozen"):
        assert row[name] == recorded[name]
    assert study("torchvision:squeezenet2")["refused"] is not None
