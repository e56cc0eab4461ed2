"""The page of methods shows every setting, as the code has it."""

import re

import pytest
from scripts.settings_tables import rewritten, settings_of

from cnnsplitter.calibration import CALIBRATIONS
from cnnsplitter.patches.gating import DOUBTS
from docpages import Page

PAGE = Page("docs/methods.md")


def test_the_tables_are_those_of_the_code() -> None:
    assert PAGE.text == rewritten(PAGE.text), "run python -m scripts.settings_tables"


def test_no_settings_are_left_out() -> None:
    import cnnsplitter as cs
    from cnnsplitter.search import SEARCHES

    shown = set(re.findall(r"<!-- settings: (\w+) -->", PAGE.text))
    searches = {search.__name__ for search in SEARCHES.values()}
    assert shown >= searches | {"Fitting", "FineTuning", "Gate"}
    for name in shown:
        assert settings_of(getattr(cs, name))


@pytest.mark.parametrize("name", [*CALIBRATIONS, *DOUBTS])
def test_every_calibration_and_gate_has_its_place(name: str) -> None:
    assert f"`{name}`" in PAGE.text
