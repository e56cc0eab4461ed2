import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnsplitter.errors import SettingsError
from cnnsplitter.events import Muted, TensorBoard, TimeLeft, together
from cnnsplitter.progress import Step


def test_every_listener_hears_every_step_in_order() -> None:
    heard: list[tuple[int, int]] = []
    progress = together(lambda s: heard.append((0, s.done)), lambda s: heard.append((1, s.done)))
    for done in (1, 2):
        progress(Step("search", done, 2))
    assert heard == [(0, 1), (1, 1), (0, 2), (1, 2)]


def test_steps_are_dropped_while_they_are_muted() -> None:
    heard: list[int] = []
    muted = Muted(lambda step: heard.append(step.done), is_muted=True)
    for done in (1, 2):
        muted(Step("search", done, 2))
        muted.is_muted = False
    assert heard == [2]


@given(first=st.integers(1, 5), more=st.integers(1, 5), rest=st.integers(0, 9))
def test_time_left_is_the_rest_at_the_pace_so_far(first: int, more: int, rest: int) -> None:
    steps: list[Step] = []
    clock = iter((100.0, 100.0 + 3.0 * more))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnsplitter.events.time.monotonic", lambda: next(clock))
        progress = TimeLeft(steps.append)
        for done in (first, first + more):
            progress(Step("search", done, first + more + rest, {"accuracy": 0.5}))
    assert steps[0].values == {"accuracy": 0.5}
    assert steps[1].values == {"accuracy": 0.5, "seconds_left": pytest.approx(3.0 * rest)}


def test_a_stage_that_begins_again_has_a_pace_of_its_own() -> None:
    steps: list[Step] = []
    clock = iter((0.0, 10.0, 1000.0, 1001.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnnsplitter.events.time.monotonic", lambda: next(clock))
        progress = TimeLeft(steps.append)
        for done in (1, 3, 1, 2):
            progress(Step("search", done, 3))
    left = [step.values.get("seconds_left") for step in steps]
    assert left == [None, 0.0, None, 1.0]


def test_tensorboard_reads_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    board = TensorBoard(tmp_path)
    for done in (1, 2):
        board(Step("search", done, 2, {"accuracy": done / 4}))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path)).Reload().Scalars("search/accuracy")
    assert [(event.step, event.value) for event in found] == [(1, 0.25), (2, 0.5)]


def test_without_tensorboard_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SettingsError, match=r"pip install 'cnnsplitter\[tensorboard\]'"):
        TensorBoard(tmp_path)
