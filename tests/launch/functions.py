"""What workers do in these tests; each is given a folder for what they leave behind."""

import datetime
import logging
import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

from afcore.config import WorkersConfig
from afcore.errors import DataError, StoppedError
from afcore.interrupt import committing, stop_requested
from afcore.launch import connection
from afcore.launch.launcher import open_launcher


def join() -> int:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    return dist.get_rank()


def leave(folder: str, name: str, text: str = "") -> None:
    (Path(folder) / name).write_text(text)


def all_reduce(folder: str) -> None:
    rank = join()
    total = torch.tensor([float(rank + 1)])
    dist.all_reduce(total)
    threads, local = torch.get_num_threads(), os.environ["LOCAL_RANK"]
    named = os.environ.get("AUTOFREEZE_TEST", "")
    leave(folder, f"sum-{rank}", f"{total.item()} {threads} {local} {named}")
    dist.destroy_process_group()
    logger = logging.getLogger("afcore.test")
    logger.info("info")
    logger.warning("%s", "warning")


def work_for_ever(folder: str) -> None:
    """Steps that end together when any rank was told to stop."""
    rank = join()
    leave(folder, f"pid-{rank}", str(os.getpid()))
    while True:
        stop = torch.tensor([float(stop_requested())])
        dist.all_reduce(stop)
        if stop.item():
            time.sleep(1.0 + 2.0 * rank)  # a commit takes its time, and one's is the last
            leave(folder, f"committed-{rank}")
            raise StoppedError("in epoch 3")
        time.sleep(0.01)


def commit_slowly(folder: str) -> None:
    """The first commits for longer than the grace period, the others wait for it."""
    rank = join()
    connection.GRACE_SECONDS = 0.5
    leave(folder, f"pid-{rank}", str(os.getpid()))
    while not stop_requested():
        time.sleep(0.01)
    with committing():
        if rank == 0:
            time.sleep(2.5)
            leave(folder, "committed-0")
        dist.barrier()
    raise StoppedError("in epoch 3")


def never_stop(folder: str) -> None:
    rank = join()
    connection.GRACE_SECONDS = 0.5
    leave(folder, f"pid-{rank}", str(os.getpid()))
    time.sleep(600)


def kill_last(folder: str) -> None:
    rank = join()
    leave(folder, f"pid-{rank}", str(os.getpid()))
    for step in range(1000):
        dist.all_reduce(torch.ones(1))
        if step == 5 and rank == dist.get_world_size() - 1:
            leave(folder, "killed")
            os.kill(os.getpid(), signal.SIGKILL)


def bad_data(folder: str) -> None:
    """An error of ours on the last rank, while others wait for it."""
    rank = join()
    if rank == dist.get_world_size() - 1:
        raise DataError("shard 7 is empty")
    dist.all_reduce(torch.ones(1))


def bug(folder: str) -> None:
    rank = join()
    if rank == dist.get_world_size() - 1:
        raise ZeroDivisionError("a bug")
    dist.all_reduce(torch.ones(1))


def nothing(folder: str) -> None:
    pass


def launch_others(folder: str) -> None:
    open_launcher(WorkersConfig(max=2))
