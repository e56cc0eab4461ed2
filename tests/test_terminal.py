"""Bars and tables on a terminal, plain lines elsewhere, and one JSON object for machines."""

import io
import json
import re
from collections.abc import Callable

import pytest

from cnnsplitter.progress import Step
from cnnsplitter.terminal import Terminal, plain_console, printable

ROWS = [{"class": "[bold]x", "kept_kernels": 0.5, "macs": 12345, "time": None}]


Streams = tuple[Terminal, io.StringIO, io.StringIO]


def on_terminal(*, as_json: bool = False, quiet: bool = False, width: int = 80) -> Streams:
    """A terminal that shows bars, what it prints as results, and the rest."""
    return _streams(as_json, quiet, force_terminal=True, width=width)


def piped(*, as_json: bool = False, quiet: bool = False) -> Streams:
    """Likewise, where nobody looks."""
    return _streams(as_json, quiet, force_terminal=False, width=None)


def _streams(as_json: bool, quiet: bool, *, force_terminal: bool, width: int | None) -> Streams:
    files = io.StringIO(), io.StringIO()
    out, err = (
        plain_console(file=file, force_terminal=force_terminal, width=width) for file in files
    )
    return Terminal(as_json, quiet, out, err), *files


def without_codes(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


class TestProgress:
    def test_bars_on_a_terminal(self) -> None:
        terminal, out, err = on_terminal()
        with terminal:
            terminal.progress(Step("train", 1, 2, {"train_accuracy": 0.25}))
            terminal.progress(Step("search", 3, 3))
        text = without_codes(err)
        assert "━" in text
        assert re.search(r"train +\S+ 1/2 .*train accuracy 0\.250", text)
        assert "3/3" in text
        assert out.getvalue() == ""

    def test_a_stage_within_another_hides_none_of_its_lines(self) -> None:
        terminal, _, err = piped()
        for number in range(1, 4):
            for step in range(1, 4):
                terminal.progress(Step("steps", step, 3))
            terminal.progress(Step("search", number, 3))
        assert err.getvalue().splitlines() == [
            "steps: 1/3",
            "steps: 3/3",
            "search: 1/3",
            "search: 3/3",
        ]

    def test_a_stage_has_one_bar(self) -> None:
        terminal, _, err = on_terminal()
        with terminal:
            for done in (1, 2):
                terminal.progress(Step("train", done, 2))
        assert without_codes(err).rstrip().splitlines()[-1].count("2/2") == 1
        assert without_codes(err).rstrip().count("\n") <= 1

    @pytest.mark.parametrize("width", [60, 80])
    def test_a_narrow_terminal_loses_the_end_of_the_figures_only(self, width: int) -> None:
        terminal, _, err = on_terminal(width=width)
        with terminal:
            terminal.progress(
                Step("train weak-ship", 12, 12, {f"figure_{i}": 0.5 for i in range(9)})
            )
        last = without_codes(err).rstrip().splitlines()[-1]
        assert "train weak-ship" in last
        assert "12/12" in last
        assert last.endswith("…")

    def test_lines_elsewhere(self) -> None:
        terminal, out, err = piped()
        with terminal:
            terminal.progress(Step("train", 1, 1, {"loss": 0.25, "train_accuracy": 0.5}))
            terminal.progress(Step("search", 1, 1))
        assert err.getvalue() == "train: 1/1  loss 0.250  train accuracy 0.500\nsearch: 1/1\n"
        assert out.getvalue() == ""

    def test_lines_are_rare_but_the_last_step_is_always_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 100.0
        monkeypatch.setattr("cnnsplitter.terminal.time.monotonic", lambda: now)
        terminal, _, err = piped()
        for done in range(1, 10):
            now = 100.0 + done
            terminal.progress(Step("train", done, 9))
        told = [line.removeprefix("train: ") for line in err.getvalue().splitlines()]
        assert told == ["1/9", "7/9", "9/9"]

    @pytest.mark.parametrize("streams", [on_terminal, piped])
    def test_verbose_tells_every_step_with_the_time(self, streams: Callable[..., Streams]) -> None:
        terminal, _, err = streams()
        terminal.verbose = True
        with terminal:
            for done in (1, 2, 3):
                terminal.progress(Step("train", done, 9, {"loss": 0.5}))
        lines = err.getvalue().splitlines()
        assert [line.split(" ", 1)[1] for line in lines] == [
            f"train: {done}/9  loss 0.500" for done in (1, 2, 3)
        ]
        assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)

    @pytest.mark.parametrize("streams", [on_terminal, piped])
    def test_quiet(self, streams: Callable[..., Streams]) -> None:
        terminal, out, err = streams(quiet=True)
        with terminal:
            terminal.progress(Step("train", 1, 1))
        assert out.getvalue() == err.getvalue() == ""

    def test_bars_end_after_an_error(self) -> None:
        terminal, _, err = on_terminal()

        def work() -> None:
            with terminal:
                terminal.progress(Step("train", 1, 2))
                raise ValueError("stop")

        with pytest.raises(ValueError, match="stop"):
            work()
        assert err.getvalue().endswith("\x1b[?25h")  # the cursor is shown again

    @pytest.mark.parametrize("name", ["[bold]x", "<script>", ":smile:", "[/]"])
    @pytest.mark.parametrize("streams", [on_terminal, piped])
    def test_names_are_text(self, streams: Callable[..., Streams], name: str) -> None:
        terminal, _, err = streams()
        with terminal:
            terminal.progress(Step(f"weak-{name}", 1, 1, {name: 0.5}))
        assert f"weak-{name}" in without_codes(err)
        assert f"{name} 0.500" in without_codes(err)


class TestResults:
    def test_table_on_a_terminal(self) -> None:
        terminal, out, _ = on_terminal()
        terminal.table("Title [bold]", ROWS)
        title, _, head, _, row = (line.strip() for line in without_codes(out).splitlines()[1:6])
        assert title == "Title [bold]"
        assert head.split() == ["class", "kept", "kernels", "macs"]  # no column without a value
        assert row.split() == ["[bold]x", "0.500", "12,345"]

    def test_table_elsewhere_has_no_lines_and_no_width(self) -> None:
        terminal, out, _ = piped()
        many = {f"column_{i}": "word" for i in range(60)}
        terminal.table("Title", [many])
        assert out.getvalue().splitlines()[1] == "Title"
        head, row = (line.rstrip() for line in out.getvalue().splitlines()[2:])
        assert row.split() == ["word"] * 60
        assert head.index("column 59") == row.rindex("word")

    def test_no_rows_no_table(self) -> None:
        terminal, out, _ = piped()
        terminal.table("Title", [])
        assert out.getvalue() == ""

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0.12345, "0.123"),
            (123456.0, "1.23e+05"),
            (1234567, "1,234,567"),
            (None, ""),
            ("a", "a"),
        ],
    )
    def test_values(self, value: object, text: str) -> None:
        terminal, out, _ = piped()
        terminal.table("Title", [{"name": "x", "value": value}, {"name": "x", "value": "y"}])
        assert out.getvalue().splitlines()[3].split() == ["x", *text.split()]

    def test_lines_are_text_and_never_wrapped(self) -> None:
        terminal, out, _ = on_terminal(width=20)
        text = "a [red]line[/] of :cat: that is longer than 20 columns"
        terminal.line(text)
        assert out.getvalue() == f"{text}\n"

    def test_notes_go_to_standard_error_though_quiet(self) -> None:
        terminal, out, err = piped(quiet=True, as_json=True)
        terminal.note("left out [1] file")
        assert (out.getvalue(), err.getvalue()) == ("", "left out [1] file\n")

    @pytest.mark.parametrize("streams", [on_terminal, piped])
    def test_json_and_nothing_else(self, streams: Callable[..., Streams]) -> None:
        terminal, out, _ = streams(as_json=True)
        value = {"text": "[bold]:cat: " * 30, "numbers": [1, 0.5]}
        terminal.line("a line")
        terminal.table("a table", ROWS)
        terminal.result(value)
        assert json.loads(out.getvalue()) == value
        assert out.getvalue().count("\n") == 1

    def test_no_json_unless_wanted(self) -> None:
        terminal, out, _ = piped()
        terminal.result({"a": 1})
        assert out.getvalue() == ""


def test_control_characters_of_a_strangers_file_are_shown_not_obeyed() -> None:
    assert printable("a\x1b[31mred\x07\nnext ü") == "a\\x1b[31mred\\x07\nnext ü"
