"""What notebooks and rich consoles show of models and comparisons."""

import io
import re

import pytest
import torch
from rich.console import Console

from cnnsplitter.calibration import fit_calibration
from cnnsplitter.class_modules import ClassModule, ComposedModel
from cnnsplitter.evaluation import Comparison
from cnnsplitter.patches.patching import Patch, PatchedModel
from cnnsplitter.summaries import Summarised, Summary
from toys import classifier

EVIL = "<script>[bold]:cat:\x1b[31m"
KNOWN_TAGS = {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "p"}
CLASSES = (EVIL, "dog", "ship")


def things() -> dict[str, Summarised]:
    strong = classifier(classes=CLASSES)
    module = ClassModule.of(strong, EVIL)
    scores, own = torch.arange(4.0), torch.tensor([True, True, False, False])
    patch = Patch(EVIL, module, fit_calibration("min-max", scores, own))
    labels, wrong = torch.tensor([0, 0, 1, 2]), torch.tensor([1, 0, 1, 2])
    return {
        "class module": module,
        "composed model": ComposedModel([module, ClassModule.of(strong, "dog")]),
        "patched model": PatchedModel(strong, [patch]),
        "comparison": Comparison(CLASSES, (EVIL,), labels, wrong, labels),
    }


def on_console(thing: object) -> str:
    file = io.StringIO()
    Console(file=file, width=200, force_terminal=False).print(thing)
    return file.getvalue()


@pytest.mark.parametrize("name", things())
def test_names_stay_text(name: str) -> None:
    thing = things()[name]
    html = thing._repr_html_()
    assert set(re.findall(r"<(\w+)", html)) <= KNOWN_TAGS
    assert "<td>" in html
    assert "&lt;script&gt;[bold]:cat:" in html
    text = on_console(thing)
    assert "<script>[bold]:cat:\\x1b[31m" in text
    assert "\x1b" not in text


def test_a_console_shows_columns_and_the_remark() -> None:
    class Thing(Summarised):
        def summary(self) -> Summary:
            return Summary(
                "Title", [{"a": "long one", "b": "1"}, {"a": "x", "b": "2"}], "That is it."
            )

    assert on_console(Thing()).splitlines() == [
        "Title",
        "a         b",
        "long one  1",
        "x         2",
        "That is it.",
    ]


def test_a_comparison_shows_the_change_with_its_interval() -> None:
    comparison = things()["comparison"]
    assert isinstance(comparison, Comparison)
    text = on_console(comparison)
    change = comparison.changes(EVIL)["recall"]
    assert f"+50.0 ({100 * change.low:+.1f} to {100 * change.high:+.1f})" in text
    assert "1 images became right, 0 became wrong" in text


def test_without_rows_there_is_no_table() -> None:
    assert "<table" not in Summary("Nothing").html
    assert Summary("Nothing").lines == []
