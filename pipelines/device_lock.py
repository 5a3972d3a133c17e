"""One run of a deployment at a time on a device, whatever workers there are on its machine.

A lock file for each device, in the temporary folder of the user. The system lets go of it when the
process dies, however that happens. Commands in a terminal do not wait for one another: who starts
two beside each other wants them so.
"""

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from prefect.runtime import deployment

from afcore.config import WorkersConfig

__all__ = ["one_run_a_device"]

_log = logging.getLogger("afcore.prefect")


@contextlib.contextmanager
def one_run_a_device(workers: WorkersConfig) -> Iterator[float]:
    """Hold the devices of this machine that a deployment's run computes on; wait for them first.

    Yields:
        Seconds waited.
    """
    began = time.monotonic()
    with contextlib.ExitStack() as held:
        for device in _devices(workers) if deployment.id is not None else []:
            lock = FileLock(_folder() / f"{device}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                _log.info("waiting: another run trains on the device %s of this machine", device)
                lock.acquire(poll_interval=0.5)
            held.callback(lock.release)
        yield time.monotonic() - began


def _devices(workers: WorkersConfig) -> list[str]:
    """By names that all processes know them by, in one order, so that no two wait for each other.

    Ray gives those of its cluster away by itself.
    """
    if workers.ray_address is not None:
        return []
    if not torch.cuda.is_available():
        return ["cpu"]
    count = min(workers.max, torch.cuda.device_count())
    return sorted(f"gpu-{torch.cuda.get_device_properties(n).uuid}" for n in range(count))


def _folder() -> Path:
    folder = Path(tempfile.gettempdir()) / f"autofreeze-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
