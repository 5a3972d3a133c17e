"""What workers do in these tests; ``job.store`` is a folder for what they leave behind."""

import datetime
import logging
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

from afcore.errors import DataError, StoppedError
from afcore.interrupt import stop_requested
from afcore.launch.job import EpochJob


def join() -> int:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    return dist.get_rank()


def leave(job: EpochJob, name: str, text: str = "") -> None:
    (Path(job.store) / name).write_text(text)


def all_reduce(job: EpochJob) -> None:
    rank = join()
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    threads, local = torch.get_num_threads(), os.environ["LOCAL_RANK"]
    named = os.environ.get("AUTOFREEZE_TEST", "")
    leave(job, f"sum-{rank}", f"{total.item()} {threads} {local} {named}")
    dist.destroy_process_group()
    logger = logging.getLogger("afcore.test")
    logger.info("info")
    logger.warning("%s", "warning")


def work_for_ever(job: EpochJob) -> None:
    """Steps that end together when any rank was told to stop."""
    rank = join()
    leave(job, f"pid-{rank}", str(os.getpid()))
    while True:
        stop = torch.tensor([float(stop_requested())])
        dist.all_reduce(stop)
        if stop.item():
            time.sleep(1.0 + 2.0 * rank)  # a commit takes its time, and one's is the last
            leave(job, f"committed-{rank}")
            raise StoppedError(f"in epoch {job.epoch}")
        time.sleep(0.01)


def kill_last(job: EpochJob) -> None:
    rank = join()
    leave(job, f"pid-{rank}", str(os.getpid()))
    for step in range(1000):
        dist.all_reduce(torch.ones(1))
        if step == 5 and rank == job.num_workers - 1:
            leave(job, "killed")
            os.kill(os.getpid(), signal.SIGKILL)


def bad_data(job: EpochJob) -> None:
    """An error of ours on the last rank, while others wait for it."""
    rank = join()
    if rank == job.num_workers - 1:
        raise DataError("shard 7 is empty")
    dist.all_reduce(torch.ones(1))


def bug(job: EpochJob) -> None:
    rank = join()
    if rank == job.num_workers - 1:
        raise ZeroDivisionError("a bug")
    dist.all_reduce(torch.ones(1))


def nothing(job: EpochJob) -> None:
    pass
