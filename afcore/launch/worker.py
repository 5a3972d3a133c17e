"""What happens in a worker's process around the job's function, under every launcher."""

import time

import torch

from afcore.errors import StoppedError
from afcore.interrupt import stop_requested
from afcore.launch.connection import ParentAddress, connect
from afcore.launch.job import Job
from afcore.launch.outcome import Outcome, outcome_of

__all__ = ["is_worker", "work"]

_AFTER_OTHERS_SECONDS = 1.0  # see outcome.py


_is_worker = False


def is_worker() -> bool:
    """Whether a launcher has started this process."""
    return _is_worker


def work(job: Job, address: ParentAddress, rank: int) -> bool:
    """Call the job's function, and tell the parent how it ended.

    Returns:
        Whether it ended in order: it returned, or all stopped together. A worker that did not makes
        the launcher stop the others, who may still be about to commit.
    """
    global _is_worker
    _is_worker = True
    report = connect(address, rank)
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        job.call()
    except Exception as error:
        outcome = outcome_of(error)
        report(outcome)
        if outcome.foreign:
            _let_others_go_first()
        return isinstance(error, StoppedError)
    report(Outcome())
    return True


def _let_others_go_first() -> None:
    """Wait: if this failed because another worker died, then the launcher should see that one."""
    until = time.monotonic() + _AFTER_OTHERS_SECONDS
    while time.monotonic() < until and not stop_requested():
        time.sleep(0.02)
