"""What workers are to do, and who makes them do it."""

import importlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Protocol

__all__ = ["EpochJob", "Launcher"]


@dataclass(frozen=True)
class EpochJob:
    """One epoch on ``num_workers`` workers.

    Attributes:
        store: root of the store.
        run_id: of the run.
        epoch: from 1; 0 to measure the workers.
        attempt: number of the lease that it is done under.
        num_workers: world size.
        threads: of each worker's computations; None leaves it to torch.
        function: ``module:function`` that every worker calls with this job.
        launched: when, in seconds since the epoch (UTC); None where nobody asks.
    """

    store: str
    run_id: str
    epoch: int
    attempt: int
    num_workers: int
    threads: int | None = None
    function: str = "afcore.launch.worker:work_epoch"
    launched: float | None = None

    @property
    def what(self) -> str:
        """It is, in messages."""
        return f"in epoch {self.epoch}" if self.epoch else "while the workers were measured"

    def to_json(self) -> str:
        """As JSON, for a worker on any machine."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "EpochJob":
        """Back from :meth:`to_json`."""
        return cls(**json.loads(text))

    def load(self) -> Callable[["EpochJob"], object]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        function: Callable[[EpochJob], object] = getattr(importlib.import_module(module), name)
        return function


class Launcher(Protocol):
    """Runs jobs, one at a time."""

    def run(self, job: EpochJob) -> None:
        """Call the job's function on each worker and wait until all have returned.

        Raises:
            WorkerLostError: when a worker's process died.
            StoppedError: when a stop was requested; the workers have ended.
            AutoFreezeError: of whichever class and message a worker raised.
            RuntimeError: for any other exception in a worker; its traceback is logged.
        """

    def close(self) -> None:
        """Give back what is kept from job to job."""
