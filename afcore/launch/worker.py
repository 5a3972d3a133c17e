"""What happens in a worker's process around the job's function, under every launcher."""

import time

import torch

from afcore.errors import StoppedError
from afcore.interrupt import stop_requested
from afcore.launch.connection import LineAddress, connect
from afcore.launch.job import Job
from afcore.launch.outcome import ending_of

__all__ = ["work"]

_AFTER_OTHERS_SECONDS = 1.0  # see endings.py


def work(job: Job, address: LineAddress, rank: int) -> bool:
    """Call the job's function; how it ended goes up the line.

    ``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``MASTER_ADDR`` and ``MASTER_PORT`` are set: the
    function itself joins the process group by ``env://``.

    Returns:
        Whether it ended in order: it returned, or all stopped together. A worker that did not makes
        the launcher end the others, who may still be about to commit.
    """
    send = connect(address, rank)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        job.call()
    except Exception as error:
        ending = ending_of(error)
        send(ending)
        if not ending.ours:
            _let_others_go_first()
        return isinstance(error, StoppedError)
    send(ending_of(None))
    return True


def _let_others_go_first() -> None:
    """Wait: if this failed because another worker died, then the launcher should see that one."""
    until = time.monotonic() + _AFTER_OTHERS_SECONDS
    while time.monotonic() < until and not stop_requested():
        time.sleep(0.02)
