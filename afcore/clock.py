"""Moments that other processes measure from; a clock that is set meanwhile changes nothing.

What is shown or logged has the time of day (:func:`time.time`). What is measured within a process
has :func:`time.monotonic` or :func:`time.perf_counter`. This is for what begins in one process and
ends in another.
"""

import os
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Moment", "this_machine"]

_FIRST_PROCESS = Path("/proc/1")
"""There always is one, of another user."""


def this_machine() -> str:
    """Where a process id, or a monotonic clock, means what it means here.

    That is: host, boot and process namespace; and the user, where the system hides the processes of
    others (``hidepid=2``): who does not find one there does not know that it has ended.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        return socket.gethostname()
    whose = "" if _FIRST_PROCESS.exists() else f"/{os.getuid()}"
    return f"{socket.gethostname()}/{boot}/{namespace}{whose}"


@dataclass(frozen=True)
class Moment:
    """When and where it was made.

    Attributes:
        machine: where.
        monotonic: seconds by its clock that nobody sets.
        time: seconds since the epoch (UTC).
    """

    machine: str = field(default_factory=this_machine)
    monotonic: float = field(default_factory=time.monotonic)
    time: float = field(default_factory=time.time)

    @property
    def seconds(self) -> float:
        """Since then; on another machine as far as the clocks of both agree, and never negative."""
        if self.machine == this_machine():
            return time.monotonic() - self.monotonic
        return max(0.0, time.time() - self.time)
