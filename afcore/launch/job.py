"""What workers are to do, and who makes them do it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Job", "Launcher"]


@dataclass(frozen=True)
class Job:
    """A function for each of ``num_workers`` workers.

    Attributes:
        function: of a module that workers can import; what it returns is dropped.
        arguments: for it, pickled on their way.
        num_workers: world size.
        what: it is, in messages: ``in epoch 3``.
        threads: of each worker's computations; None leaves it to torch.
    """

    function: Callable[..., object]
    arguments: tuple[object, ...]
    num_workers: int
    what: str
    threads: int | None = None

    def call(self) -> None:
        """Do it, in a worker."""
        self.function(*self.arguments)


class Launcher(Protocol):
    """Runs jobs, one at a time."""

    def run(self, job: Job) -> None:
        """Call the job's function on each worker and wait until all have returned.

        ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and
        ``MASTER_PORT`` are set: the function itself joins a process group, by ``env://``.

        Raises:
            WorkerLostError: when a worker's process died.
            StoppedError: when a stop was requested; the workers have ended.
            AutoFreezeError: of whichever class and message a worker raised.
            RuntimeError: for any other exception in a worker; its traceback is logged.
        """

    def close(self) -> None:
        """Give back what is kept from job to job."""
