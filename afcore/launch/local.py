"""Workers of this machine, each a process.

They are forked from a server process that has imported everything once
(:mod:`multiprocessing.forkserver`), so that an epoch's launch takes a fraction of a second. A
worker that dies ends the job: no restarts here, the epoch is tried again by whoever called.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import types
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import wait

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from afcore.errors import StoppedError
from afcore.interrupt import catch_sigterm, stop_requested
from afcore.launch.connection import ParentAddress, WorkerConnections
from afcore.launch.job import Job
from afcore.launch.outcome import raise_cause
from afcore.launch.worker import work

__all__ = ["LaunchLocally"]

_HERE = "127.0.0.1"


class LaunchLocally:
    """Starts the fork server at once, so that it imports while this process prepares.

    It imports what this process has imported of the package, as jobs are made of that; only the
    first launcher of a process chooses.
    """

    def __init__(self) -> None:
        preloaded = sorted(name for name in sys.modules if name.startswith("afcore."))
        multiprocessing.set_forkserver_preload(preloaded)
        with _without_main():
            _ensure_fork_server()

    def run(self, job: Job) -> None:
        """See :class:`afcore.launch.job.Launcher`."""
        with catch_sigterm():
            if stop_requested():
                raise StoppedError(job.what)
            with WorkerConnections() as connections:
                exit_codes = _run_workers(job, connections)
            lost = {rank: (when, _how(exit_codes[rank])) for rank, when in connections.lost.items()}
            for rank in exit_codes.keys() - connections.outcomes.keys() - lost.keys():
                lost[rank] = time.monotonic(), f"{_how(exit_codes[rank])} while it started"
            raise_cause(job, connections.outcomes, lost, stopped=stop_requested())

    def close(self) -> None:
        """The fork server stays for later launches, and ends with this process."""


def _run_workers(job: Job, connections: WorkerConnections) -> dict[int, int]:
    """Start them and wait until all have ended; their exit codes, by rank."""
    # Where they meet. As under torchrun it is the parent's, which finds itself a free port.
    meeting = TCPStore(_HERE, 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "WORLD_SIZE": str(job.num_workers),
        "LOCAL_WORLD_SIZE": str(job.num_workers),
        "MASTER_ADDR": _HERE,
        "MASTER_PORT": str(meeting.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    context = multiprocessing.get_context("forkserver")
    processes = [
        context.Process(target=_worker, args=(job, connections.address, rank, environment))
        for rank in range(job.num_workers)
    ]
    try:
        with _without_main():
            _ensure_fork_server()  # in case it was killed
            for process in processes:
                process.start()
        while running := [process.sentinel for process in processes if process.is_alive()]:
            wait(running)
            if any(process.exitcode for process in processes):
                connections.stop()
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    return {rank: process.exitcode or 0 for rank, process in enumerate(processes)}


def _worker(job: Job, address: ParentAddress, rank: int, environment: Mapping[str, str]) -> None:
    """A worker's process, from its fork on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    with catch_sigterm():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        in_order = work(job, address, rank)
    if not in_order:
        sys.exit(1)


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def _ensure_fork_server() -> None:
    """Start it, if it does not run, with SIGTERM blocked, which it hands on to the workers.

    A SIGTERM to the whole process group must not end the fork server, whose death would look like
    that of its workers; and a worker gets one when it is ready for it.
    """
    resource_tracker.ensure_running()  # which unblocks SIGTERM, if it is not there yet
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep workers from running the user's script again, as multiprocessing would."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
