from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.outlines import outline

SCALARS = st.none() | st.booleans() | st.integers() | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_mappings_are_headings_and_lists_of_them_too() -> None:
    value = {"a": 1, "b": {"c": None}, "d": [{"e": 2}, 3], "f": [4, 5], "g": {}}
    assert list(outline(value)) == [
        (0, "a", (1,)),
        (0, "b", None),
        (1, "c", (None,)),
        (0, "d", None),
        (1, "e", (2,)),
        (0, "d", (3,)),
        (0, "f", ([4, 5],)),
        (0, "g", ({},)),
    ]


def test_tables_of_numbers_are_told_by_their_size() -> None:
    value = {
        "weights": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]],
        "ragged": [[1], [2, 3]],
        "mixed": [[1], 2],
    }
    told = {key: beside for _, key, beside in outline(value)}
    assert told == {
        "weights": ("2 x 3 values",),
        "ragged": ([[1], [2, 3]],),
        "mixed": ([[1], 2],),
    }


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_depth_grows_by_one_and_only_below_headings(value: dict[str, object]) -> None:
    lines = list(outline(value))
    assert {key for depth, key, _ in lines if depth == 0} == value.keys()
    for (above, _, beside), (below, _, _) in pairwise(lines):
        assert below <= above + (beside is None)
