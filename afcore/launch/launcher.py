"""The launcher of a configuration: opened once in a process, as its start takes time."""

import contextlib
import os
from collections.abc import Iterator

import torch

from afcore.config import WorkersConfig
from afcore.errors import AutoFreezeError, ConfigError
from afcore.interrupt import catch_sigterm
from afcore.launch.job import Job, Launcher
from afcore.launch.worker import is_worker

__all__ = [
    "LaunchHere",
    "as_worker",
    "check_devices",
    "close_launchers",
    "num_devices",
    "open_launcher",
    "worker_threads",
]

_opened: dict[tuple[object, ...], Launcher] = {}


def open_launcher(workers: WorkersConfig, num_workers: int | None = None) -> Launcher:
    """The launcher of so many workers (None: of the most).

    Raises:
        ConfigError: when Ray is not installed, its address does not answer, or its cluster has
            too few devices.
        AutoFreezeError: in a worker, whose devices are taken.
    """
    if is_worker():
        raise AutoFreezeError(
            "a worker cannot start workers. Start the same command again; it goes on from the last "
            "commit."
        )
    num_workers = workers.max if num_workers is None else num_workers
    if num_workers == 1 and workers.launcher == "auto":
        return LaunchHere()
    key = (workers.launcher, workers.ray_address, workers.max)
    if key not in _opened:
        _opened[key] = _open(workers)
    return _opened[key]


def _open(workers: WorkersConfig) -> Launcher:
    if workers.launcher == "ray":
        from afcore.launch.ray_train import LaunchWithRay

        return LaunchWithRay(
            workers.ray_address,
            max_workers=workers.max,
            use_gpu=torch.cuda.is_available(),
            autoscaling=workers.autoscaling,
        )
    from afcore.launch.local import LaunchLocally

    return LaunchLocally()


def close_launchers() -> None:
    """Give back what the launchers of this process keep."""
    while _opened:
        _opened.popitem()[1].close()


def worker_threads(workers: WorkersConfig) -> int | None:
    """CPU threads of each worker; None for as many as there are."""
    if workers.threads is not None:
        return workers.threads
    return 1 if workers.max > 1 else None


class LaunchHere:
    """One worker, this process: calls the function; what it raises is raised."""

    def run(self, job: Job) -> None:
        """See :class:`afcore.launch.job.Launcher`."""
        assert job.num_workers == 1, "this process is one worker"
        with catch_sigterm(), _threads(job.threads):
            job.call()

    def close(self) -> None:
        """Nothing is kept."""


def as_worker(workers: WorkersConfig) -> contextlib.AbstractContextManager[None]:
    """Compute, and measure, with as many threads as a worker has."""
    return _threads(worker_threads(workers))


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    former = torch.get_num_threads()
    try:
        torch.set_num_threads(count or former)
        yield
    finally:
        torch.set_num_threads(former)


def num_devices() -> int:
    """Of this machine: GPUs, or the CPU cores that this process may use."""
    return torch.cuda.device_count() or len(os.sched_getaffinity(0))


def check_devices(workers: WorkersConfig, store: str) -> None:
    """Make sure that this machine has a device for each worker, and that all reach the store.

    A Ray cluster with an address is asked when it is joined.

    Raises:
        ConfigError: when not.
    """
    if store.startswith("memory://") and (workers.max > 1 or workers.launcher != "auto"):
        raise ConfigError(
            f"store {store!r} is this process's memory, which workers do not see. Take a folder or "
            "an object store."
        )
    if workers.ray_address is not None or workers.max == 1:
        return
    devices = num_devices()
    if workers.max > devices:
        kind = "GPUs" if torch.cuda.is_available() else "CPU cores"
        raise ConfigError(
            f"workers.max is {workers.max}, but this machine has {devices} {kind}. Set it to "
            f"{devices} or less, or give workers.launcher: ray with the address of a cluster."
        )
