"""Who a process is: told from a later one that has its number, whatever is done to the clock."""

import contextlib
from dataclasses import dataclass

import psutil

from afcore.clock import this_machine

__all__ = ["KnownProcess"]

_SECONDS = 2.0
"""By which the start of one process may be read differently: a system tells its own by seconds."""


@dataclass(frozen=True)
class KnownProcess:
    """One process, as another one finds it again.

    Attributes:
        machine: that it runs on, by :func:`this_machine`.
        pid: its number there.
        began: seconds from the machine's start to its own, which no clock that is set changes.
    """

    machine: str
    pid: int
    began: float

    @classmethod
    def of(cls, process: psutil.Process) -> "KnownProcess":
        """A process of this machine.

        Raises:
            psutil.NoSuchProcess: when it has ended.
        """
        return cls(this_machine(), process.pid, process.create_time() - psutil.boot_time())

    @property
    def host(self) -> str:
        """The machine's name."""
        return self.machine.partition("/")[0]

    @property
    def is_here(self) -> bool:
        """Whether it is, or was, of this machine since it started."""
        return self.machine == this_machine()

    def find(self) -> psutil.Process | None:
        """The process while it runs; None when it has ended, or is of another machine.

        One of another user, of which the system shows the number alone (``hidepid``), is taken for
        it: who has it for dead takes its work.
        """
        if not self.is_here:
            return None
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.pid)
            try:
                is_it = abs(KnownProcess.of(process).began - self.began) < _SECONDS
                is_it = is_it and process.status() != psutil.STATUS_ZOMBIE
            except psutil.AccessDenied:
                return process
            if is_it:
                return process
        return None
