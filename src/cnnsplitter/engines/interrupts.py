"""Ctrl-C while processes are started: it waits, and does not reach them."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def delaying_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, and never reach processes that it starts.

    Ctrl-C reaches all processes of a terminal. One that has just begun would die of it with a
    traceback; a start that is broken off could leave it behind.
    """
    if threading.current_thread() is not threading.main_thread():
        with _blocked():
            yield
        return
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        with _blocked():
            yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _blocked() -> Iterator[None]:
    """Block the signal in this thread: processes that it starts inherit that, but no handler."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    # As it starts, it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
