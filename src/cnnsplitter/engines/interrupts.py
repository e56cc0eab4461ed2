"""Ctrl-C while processes are started: it waits, and does not reach them."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cnnsplitter.interrupts import held_interrupts


@contextmanager
def delaying_interrupts() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, and never reach processes that it starts.

    Ctrl-C reaches all processes of a terminal. One that has just begun would die of it with a
    traceback; a start that is broken off could leave it behind.
    """
    with held_interrupts(), _blocked():
        yield


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
