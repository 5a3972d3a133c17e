"""One worker: this process."""

import torch

from afcore.interrupt import catch_sigterm
from afcore.launch.job import EpochJob

__all__ = ["LaunchHere"]


class LaunchHere:
    """Calls the function; what it raises is raised."""

    def run(self, job: EpochJob) -> None:
        """See :class:`afcore.launch.job.Launcher`."""
        assert job.num_workers == 1, "this process is one worker"
        former = torch.get_num_threads()
        with catch_sigterm():
            try:
                torch.set_num_threads(job.threads or former)
                job.load()(job)
            finally:
                torch.set_num_threads(former)

    def close(self) -> None:
        """Nothing is kept."""
