import signal
import threading
from collections.abc import Callable

import pytest

from cnnsplitter.interrupts import held_interrupts


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def hold(*do: Callable[[], object]) -> None:
    with held_interrupts():
        for act in do:
            act()


def test_ctrl_c_waits_until_the_block_ends() -> None:
    before, done = signal.getsignal(signal.SIGINT), list[str]()
    with pytest.raises(KeyboardInterrupt):
        hold(press, lambda: done.append("the rest"))
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_does_not_wait() -> None:
    before, done = signal.getsignal(signal.SIGINT), list[str]()
    with pytest.raises(KeyboardInterrupt):
        hold(press, press, lambda: done.append("the rest"))
    assert not done
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_block_is_the_one_that_is_told() -> None:
    with pytest.raises(ZeroDivisionError):
        hold(press, lambda: 1 // 0)


def test_in_other_threads_and_foreign_hands_nothing_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = []

    def look() -> None:
        with held_interrupts():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    look()
    assert handlers == [signal.default_int_handler, None]
