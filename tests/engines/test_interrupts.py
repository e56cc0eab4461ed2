import signal
import subprocess
import sys
import threading

import pytest

from cnnsplitter.engines.interrupts import delaying_interrupts

MASK = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


def is_blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_ctrl_c_waits_for_the_end() -> None:
    done = []

    def work() -> None:
        with delaying_interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("after")
        done.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["after"]
    assert not is_blocked()


def test_without_it_nothing_happens() -> None:
    handler = signal.getsignal(signal.SIGINT)
    with delaying_interrupts():
        assert signal.getsignal(signal.SIGINT) is not handler
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_error_of_the_block_comes_through() -> None:
    with pytest.raises(ValueError, match="broken"), delaying_interrupts():
        raise ValueError("broken")
    assert not is_blocked()


def test_it_does_not_reach_what_is_started() -> None:
    with delaying_interrupts():
        inside = subprocess.run([sys.executable, "-c", MASK], capture_output=True, check=True)
    outside = subprocess.run([sys.executable, "-c", MASK], capture_output=True, check=True)
    assert (inside.stdout, outside.stdout) == (b"True\n", b"False\n")


def test_other_threads_leave_the_handler_alone() -> None:
    handler, seen = signal.getsignal(signal.SIGINT), []

    def run() -> None:
        with delaying_interrupts():
            seen.append((signal.getsignal(signal.SIGINT) is handler, is_blocked()))
        seen.append((True, is_blocked()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(True, True), (True, False)]
