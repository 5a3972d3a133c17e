"""Seconds of the parts of a loop, without making the loop wait for the device.

On CUDA the host runs ahead: it queues work and goes on. A clock read on the host would tell the
time of queueing, and waiting for the device at every lap would stop the host from running ahead.
So laps are events in the device's own queue, and their times are read later, many together.
"""

import time
from collections import defaultdict
from typing import Any

import torch

__all__ = ["Stopwatch"]

_MOST_WAITING = 3000


class Stopwatch:
    """Adds up the seconds between marks, by name.

    On CUDA a lap is the time the device took to get from one mark to the next, be it with work or
    waiting for the host to queue some. So the laps of a loop still add up to the time of the loop.

    Args:
        device: on which the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._waiting: list[tuple[str, Any, Any]] = []
        self._since = self._mark()

    def start(self) -> None:
        """The next lap begins now."""
        self._since = self._mark()

    def lap(self, name: str) -> None:
        """The lap ``name`` ends now, and the next one begins."""
        now = self._mark()
        self._waiting.append((name, self._since, now))
        self._since = now
        if len(self._waiting) >= _MOST_WAITING:
            self._read()

    def seconds(self) -> dict[str, float]:
        """Seconds of all laps so far, by name; waits for the device."""
        self._read()
        return dict(self._seconds)

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self) -> None:
        if self._waiting and self._device.type == "cuda":
            self._waiting[-1][2].synchronize()
        for name, before, after in self._waiting:
            self._seconds[name] += _apart_seconds(before, after)
        self._waiting.clear()


def _apart_seconds(before: Any, after: Any) -> float:
    if isinstance(before, float):
        return float(after - before)
    return float(before.elapsed_time(after)) / 1000
