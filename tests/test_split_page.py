"""The docs page of the recorded splits says what was recorded."""

from typing import Any

import pytest
from experiments.split_page import PAGE, RESULTS, WAYS, groups, page, table

from cnnsplitter.results import read_json
from cnnsplitter.search.registry import DEFAULT_SEARCH, SEARCHES


def row(seed: int, composed: float, **changes: Any) -> dict[str, Any]:
    fixed: dict[str, Any] = {
        **{"model": "resnet20", "search": "gradient", "keep": 0.7, "tuned": "no", "images": 10},
        **{"accuracy_strong": 0.9, "kept_kernels": 0.7, "kept_macs": 0.5, "overlap": 0.6},
        **{"cpu_seconds": 12.0, "threads": 1},
    }
    return {**fixed, "seed": seed, "accuracy_composed": composed, **changes}


def results(*rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"processor": "some processor"}
    return {"rows": rows, "machine": machine, "versions": {"torch": "1"}, "command": "python"}


def test_the_page_is_the_recorded_one() -> None:
    assert PAGE.read_text() == page(read_json(RESULTS), read_json(WAYS))


def test_lines_are_means_over_seeds() -> None:
    text = table([row(0, 0.8), row(1, 0.9), row(0, 0.9, tuned="compensated")])
    assert "| 70 % | gradient | no | 2 | -5.0 ± 7.1 | 85.0 % | 50 % | 0.60 | 12 |" in text
    assert "| 70 % | gradient | compensated | 1 | +0.0 | 90.0 % | 50 % | 0.60 | 12 |" in text
    assert len(groups([row(0, 0.8), row(0, 0.8, keep=0.5)])) == 2


@pytest.mark.parametrize(
    ("composed", "kept", "said"),
    [
        (0.89, 0.7, "at most 2 points lost: met;\nnearest is gradient, plain, with -1.0"),
        (0.87, 0.7, "at most 2 points lost: missed;\nnearest is gradient, plain, with -3.0"),
    ],
)
def test_goals_are_judged_by_the_rows(composed: float, kept: float, said: str) -> None:
    text = page(results(row(0, composed, kept_kernels=kept)))
    assert said in text
    assert "at most 5 points" not in text


def test_rows_over_the_budget_meet_no_goal() -> None:
    assert "Goal" not in page(results(row(0, 0.9, kept_kernels=0.8)))


def test_the_default_search_is_the_best_of_the_table() -> None:
    """For every network and size of the first seed, with nothing but compensation after the cut."""
    rows = [row for row in read_json(RESULTS)["rows"] if row["seed"] == 0]
    sizes = {(row["model"], row["keep"]) for row in rows}
    assert len(sizes) >= 3
    for size in sizes:
        found = {
            row["search"]: row["accuracy_composed"]
            for row in rows
            if (row["model"], row["keep"]) == size and row["tuned"] == "compensated"
        }
        assert found.keys() == SEARCHES.keys()
        assert max(found, key=found.__getitem__) == DEFAULT_SEARCH
