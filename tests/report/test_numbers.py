"""The numbers of a figure are those that it is drawn from."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.report import Step, numbers
from cnnsplitter.report.numbers import MOST_COLUMNS, MOST_ROWS, Numbers, percent
from cnnsplitter.sensitivity import Sensitivity
from pages import evidence

SHARES = st.floats(0, 1)


def names(count: int) -> list[str]:
    return [f"n{i}" for i in range(count)]


def steps(count: int, best: int) -> list[Step]:
    return [
        Step(index=i, accuracy=0.5, difference=0.25, kept=0.75, measure=float(i == best))
        for i in range(count)
    ]


@given(st.data(), st.integers(1, 4), st.integers(1, MOST_COLUMNS))
def test_a_small_heat_map_is_told_whole(data: st.DataObject, rows: int, columns: int) -> None:
    line = st.lists(SHARES, min_size=columns, max_size=columns)
    shares = data.draw(st.lists(line, min_size=rows, max_size=rows))
    found = numbers.of_matrix("layer", names(rows), names(columns), shares)
    assert found.columns == ("layer", *names(columns))
    assert [row[1:] for row in found.rows] == [tuple(map(percent, line)) for line in shares]
    assert found.remark == ""


def test_a_wide_heat_map_tells_where_the_extremes_are() -> None:
    line = [0.5] * (MOST_COLUMNS + 1)
    line[3], line[7] = 0.25, 0.875
    (row,) = numbers.of_matrix("layer", ["a"], names(len(line)), [line]).rows
    assert row[0] == "a"
    assert row[1] == f"{percent(0.25)}, n3"
    assert row[3] == f"{percent(0.875)}, n7"


def test_the_overlap_of_many_class_modules_leaves_out_themselves() -> None:
    count = MOST_COLUMNS + 1
    overlap = [[1.0 if i == j else 0.5 for j in range(count)] for i in range(count)]
    overlap[0][2] = 0.75
    first = numbers.of_overlap(names(count), overlap).rows[0]
    assert first[3] == f"{percent(0.75)}, n2"
    assert numbers.of_overlap(["a", "b"], [[1.0, 0.5], [0.5, 1.0]]).rows[0][1] == percent(1)


@given(st.integers(1, 5 * MOST_ROWS), st.data())
def test_long_tables_are_thinned_and_keep_the_ends_and_what_was_returned(
    count: int, data: st.DataObject
) -> None:
    best = data.draw(st.integers(0, count - 1))
    found = numbers.of_steps(steps(count, best))
    shown = [row[0] for row in found.rows]
    assert len(shown) <= MOST_ROWS + 2
    assert shown[0].startswith("0")
    assert shown[-1].startswith(f"{count - 1}")
    assert [name for name in shown if "returned" in name] == [f"{best}, returned"]
    assert bool(found.remark) == (len(shown) < count)


def test_steps_that_saw_a_part_of_the_images_are_not_what_was_returned() -> None:
    early = steps(3, 0)
    history = [early[0].model_copy(update={"early": True}), *early[1:]]
    assert numbers.of_steps(history).rows[1][0] == "1, returned"


def test_curves_and_ratios_tell_the_start() -> None:
    curves = Sensitivity(("a", "b"), (0.5, 1.0), torch.tensor([[0.25, 0.75], [0.5, 0.75]]))
    found = numbers.of_curves(curves, {"a": [0.5, 0.6]})
    assert found.columns == ("layer", "50 % kept", "100 % kept", "starts from")
    assert found.rows[0] == ("a", percent(0.25), percent(0.75), "50 %, 60 %")
    assert found.rows[1][3] == "-"
    kept = [[0.25, 1.0], [0.75, 1.0]]
    assert numbers.of_ratios(["a", "b"], kept, {}) == Numbers(
        ("layer", "least kept", "mean kept", "most kept"),
        (
            ("a", percent(0.25), percent(0.5), percent(0.75)),
            ("b", percent(1), percent(1), percent(1)),
        ),
    )
    assert numbers.of_ratios(["a", "b"], kept, {"b": [0.3]}).rows[1][-1] == "30 %"


def test_points_are_told_by_name() -> None:
    found = numbers.of_points("run", {"one": (0.25, 0.75)}, "multiply-adds")
    assert found == Numbers(
        ("run", "multiply-adds", "accuracy"), (("one", percent(0.25), percent(0.75)),)
    )


def test_confusions_are_told_in_per_cent_of_the_true_class() -> None:
    facts = evidence("cat").model_copy(
        update={
            "classes": ["cat", "dog"],
            "confusion_before": [[1, 3], [0, 0]],
            "confusion_after": [[3, 1], [0, 2]],
        }
    )
    assert numbers.of_confusions(facts).rows == (
        ("cat", "25 → 75", "75 → 25"),
        ("dog", "0 → 0", "0 → 100"),
    )


@pytest.mark.parametrize("count", [MOST_COLUMNS + 1])
def test_confusions_of_many_classes_tell_what_is_right(count: int) -> None:
    table = [[int(i == j) for j in range(count)] for i in range(count)]
    change = {"classes": names(count), "confusion_before": table, "confusion_after": table}
    found = numbers.of_confusions(evidence("cat").model_copy(update=change))
    assert {row[1:] for row in found.rows} == {(percent(1), percent(1))}


def test_scores_and_calibration_are_told_bin_by_bin() -> None:
    facts = evidence("cat")
    scores = numbers.of_scores(facts)
    assert [row[0] for row in scores.rows] == [
        f"{percent(0)} to {percent(0.5)}",
        f"{percent(0.5)} to {percent(1)}",
    ]
    assert scores.rows[0][1:] == ("3", "1", "3", "1")
    calibration = numbers.of_calibration(facts)
    assert calibration.rows[1] == ("before, 2", percent(0.9), percent(0.8))
    assert len(calibration.rows) == 4
