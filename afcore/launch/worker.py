"""What each worker of an epoch does."""

from afcore.distributed import join_group
from afcore.interrupt import stop_requested
from afcore.launch.job import EpochJob
from afcore.runs.epoch import run_epoch
from afcore.runs.run import open_run

__all__ = ["work_epoch"]


def work_epoch(job: EpochJob) -> None:
    """Join the others and train the job's epoch with them; its record is in the store then.

    Raises:
        AutoFreezeError: as :func:`afcore.runs.epoch.run_epoch`.
    """
    run = open_run(job.store, job.run_id)
    with join_group(run.compute.device) as group:
        run_epoch(run, job.epoch, job.attempt, group, stop_requested, job.launched)
