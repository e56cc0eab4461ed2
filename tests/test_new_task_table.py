"""The tables of a page are those of the recorded results."""

import pytest
from experiments.new_task_table import RESULTS, TABLES, subtask_table, table, written

from cnnsplitter.results import read_json
from docpages import DOCS

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


def test_a_sub_task_has_a_line() -> None:
    figures = {"strong": 0.99, "plain": 0.9, "recalibrated": 0.91, "compensated": 0.96, "tuned": 1}
    row = {"classes": "cat,ship", "kept_macs": 0.5}
    row |= {f"accuracy_{name}": value for name, value in figures.items()}
    line = subtask_table([row]).splitlines()[2]
    assert line == "| cat, ship | 1 | 50 % | 99.0 % | 90.0 % | 91.0 % | 96.0 % | 100.0 % |"


@pytest.mark.parametrize("name", TABLES)
def test_the_page_shows_the_recorded_results(name: str) -> None:
    found = read_json(RESULTS / f"{name}.json")
    page = (DOCS / "new-task.md").read_text()
    assert f"<!-- {name} -->" in page
    assert written(page, name, found) == page
