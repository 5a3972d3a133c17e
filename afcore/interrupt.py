"""A request to stop soon, by a signal or by whoever started this process.

Nothing is interrupted: the training loop asks :func:`stop_requested` between steps.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from afcore.errors import StoppedError

__all__ = [
    "catch_sigint",
    "catch_sigterm",
    "committing",
    "is_committing",
    "request_stop",
    "stop_requested",
]

# Plain values and no Event, whose lock the interrupted code may hold.
_requested = False
_depth = 0
_commits = 0


def stop_requested() -> bool:
    """Whether this process should commit what it has and end."""
    return _requested


def request_stop() -> None:
    """Ask this process to stop; from any thread."""
    global _requested
    _requested = True


@contextlib.contextmanager
def committing() -> Iterator[None]:
    """Within it, this process commits, or waits for who does: it may end what it began.

    Whoever asked it to stop, and would end it after a while, does not meanwhile.
    """
    global _commits
    _commits += 1
    try:
        yield
    finally:
        _commits -= 1


def is_committing() -> bool:
    """Whether this process is within :func:`committing`."""
    return _commits > 0


@contextlib.contextmanager
def catch_sigterm() -> Iterator[None]:
    """Take SIGTERM as a request to stop while inside; the request ends with the outermost one.

    Signal handlers need the main thread: elsewhere requests come by :func:`request_stop` alone.
    """
    global _depth, _requested
    main = threading.current_thread() is threading.main_thread()
    former = signal.signal(signal.SIGTERM, _on_sigterm) if main else None
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            _requested = False
        if main:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


@contextlib.contextmanager
def catch_sigint() -> Iterator[list[int]]:
    """Take the first SIGINT while inside as a request to stop; the second interrupts at once.

    A :class:`StoppedError` that leaves it knows which of the two signals asked.

    Yields:
        The signals so far. In a thread other than the main one there are none.
    """
    seen: list[int] = []

    def on_sigint(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        request_stop()
        if len(seen) > 1:
            raise KeyboardInterrupt
        # Not through a logger, whose lock the interrupted code may hold.
        os.write(2, b"\nStopping after this step; Ctrl-C again to stop at once.\n")

    with catch_sigterm():
        if threading.current_thread() is not threading.main_thread():
            yield seen
            return
        former = signal.signal(signal.SIGINT, on_sigint)
        try:
            yield seen
        except StoppedError as stopped:
            stopped.by_ctrl_c = bool(seen)
            raise
        finally:
            signal.signal(signal.SIGINT, former or signal.default_int_handler)


def _on_sigterm(_number: int, _frame: FrameType | None) -> None:
    request_stop()
