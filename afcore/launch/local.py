"""Workers of this machine, by ``torchrun``'s programming interface (torch.distributed.elastic).

They are forked from a server process that has imported everything once, so that an epoch's launch
takes a fraction of a second. A worker that dies ends the job: no restarts here, the epoch is tried
again by whoever called.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
import types
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver, resource_tracker, set_forkserver_preload

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from afcore.errors import StoppedError
from afcore.interrupt import catch_sigterm, request_stop, stop_requested
from afcore.launch.connection import GRACE_SECONDS, LineAddress, WorkerLines
from afcore.launch.job import Job
from afcore.launch.outcome import conclude
from afcore.launch.worker import work

__all__ = ["LaunchLocally"]

_MONITOR_SECONDS = 0.05
_RENDEZVOUS_SECONDS = 60


class LaunchLocally:
    """Starts the fork server at once, so that it imports while this process prepares.

    It imports what this process has imported of the package, as jobs are made of that; only the
    first launcher of a process chooses.
    """

    def __init__(self) -> None:
        set_forkserver_preload(sorted(name for name in sys.modules if name.startswith("afcore.")))
        with _without_main():
            _ensure_fork_server()

    def run(self, job: Job) -> None:
        """See :class:`afcore.launch.job.Launcher`."""
        with catch_sigterm():
            if stop_requested():
                raise StoppedError(job.what)
            with WorkerLines() as lines:
                failures = _launch(job, lines.address)
            lost = {
                rank: (when, failures.get(rank, "its process died"))
                for rank, when in lines.lost.items()
            }
            for rank in failures.keys() - lines.endings.keys() - lost.keys():
                lost[rank] = time.monotonic(), f"{failures[rank]} while it started"
            conclude(job, lines.endings, lost, stopped=stop_requested())

    def close(self) -> None:
        """The fork server stays for later launches, and ends with this process."""


def _launch(job: Job, address: LineAddress) -> dict[int, str]:
    """Run the workers; what the agent saw of those that failed, by rank."""
    with tempfile.TemporaryDirectory(prefix="autofreeze-") as folder, _quiet(), _without_main():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=job.num_workers,
            run_id="workers",
            role="worker",
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{_free_port()}",
            rdzv_configs={"rank": 0, "timeout": _RENDEZVOUS_SECONDS},
            local_addr="127.0.0.1",
            max_restarts=0,
            monitor_interval=_MONITOR_SECONDS,
            start_method="forkserver",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGTERM",
            shutdown_timeout=int(GRACE_SECONDS),
        )
        _ensure_fork_server()  # in case it was killed
        try:
            with catch_sigterm():  # the agent leaves its own handler behind
                elastic_launch(config, _worker)(job, address, dict(os.environ))
        except SignalException:
            request_stop()
        except ChildFailedError as error:
            return {rank: _how(failure.exitcode) for rank, failure in error.failures.items()}
    return {}


def _worker(job: Job, address: LineAddress, environment: Mapping[str, str]) -> None:
    """A worker's process, from its fork on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    for name, value in environment.items():
        if not name.startswith(_AGENT_VARIABLES):
            os.environ[name] = value
    with catch_sigterm():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        returned = work(job, address, int(os.environ["RANK"]))
    if not returned:
        sys.exit(1)


# Set by the agent, by beginning of the name.
_AGENT_VARIABLES = ("RANK", "WORLD_", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def _how(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process was ended by {name}{hint}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the agent's log lines and tracebacks: what happened is said once, by us."""
    names = ("agent.server.api", "agent.server.local_elastic_agent", "multiprocessing.api")
    loggers = [logging.getLogger(f"torch.distributed.elastic.{name}") for name in names]
    loggers.append(logging.getLogger("torch.multiprocessing.spawn"))
    former = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, former, strict=True):
            logger.setLevel(level)
