"""The table of a page is that of the recorded results."""

import pytest
from experiments.new_task_table import table, written

from cnnsplitter.results import read_json
from docpages import DOCS, ROOT

ROWS = [
    {
        "second": "digits",
        "seed": seed,
        "kept_macs": kept,
        "calibration": "learned",
        "accuracy_composed": 0.8 + seed / 10,
        "accuracy_scratch": 0.9,
    }
    for seed in (0, 1)
    for kept in (1.0, 0.5 + seed / 5)
]


def test_a_line_is_the_mean_over_the_seeds() -> None:
    whole, narrow = table(ROWS).splitlines()[2:]
    assert whole == "| digits | whole models | learned | 2 | 85.0 % | 90.0 % | -5.0 |"
    assert narrow.split(" | ")[1] == "60 % of the multiply-adds"


def test_the_page_shows_the_recorded_results() -> None:
    file = ROOT / "experiments/results/new-task.json"
    if not file.exists():
        pytest.skip("nothing is recorded yet")
    page = (DOCS / "new-task.md").read_text()
    assert written(page, read_json(file)) == page
