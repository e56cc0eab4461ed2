import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import SelectionError
from cnnsplitter.selection import Selection

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=20)


def selection(*keep: bool, fingerprint: str = "map") -> Selection:
    return Selection(torch.tensor(keep, dtype=torch.bool), fingerprint)


@given(pairs)
def test_set_laws(bits: list[tuple[bool, bool]]) -> None:
    left, right = (selection(*side) for side in zip(*bits, strict=True))
    first, second = ({i for i, bit in enumerate(side) if bit} for side in zip(*bits, strict=True))

    def units(of: Selection) -> set[int]:
        return set(of.keep.nonzero().flatten().tolist())

    assert units(left | right) == first | second
    assert units(left & right) == first & second
    assert (left <= right) == (first <= second)
    assert (left == right) == (first == second)
    assert left & right <= left <= left | right
    assert left.share == pytest.approx(len(first) / len(bits))
    assert (left | right) == (right | left)


def test_equal_selections_have_equal_hashes() -> None:
    assert hash(selection(True, False)) == hash(selection(True, False))
    assert len({selection(True), selection(True), selection(False)}) == 2
    assert selection(True) != selection(True, fingerprint="other")
    assert selection(True) != "selection"


def test_selections_of_other_networks_do_not_mix() -> None:
    one = selection(True, False)
    for other in (selection(True, False, fingerprint="other"), selection(True, False, True)):
        with pytest.raises(SelectionError, match="different networks"):
            one | other
        with pytest.raises(SelectionError, match="different networks"):
            one & other
        with pytest.raises(SelectionError, match="different networks"):
            assert one <= other


@pytest.mark.parametrize("keep", [torch.ones(3), torch.ones(2, 3).bool(), torch.ones(()).bool()])
def test_a_selection_is_a_row_of_bits(keep: torch.Tensor) -> None:
    with pytest.raises(SelectionError, match=r"a selection is bool\[units\]"):
        Selection(keep, "map")
