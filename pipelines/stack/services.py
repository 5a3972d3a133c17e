"""Servers that outlive the command that starts them: found again, checked and stopped.

A file beside their logs says which process each is. A process that has died, or whose number now
belongs to another after a reboot, is not taken for it.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from afcore.errors import AutoFreezeError, UserError
from afcore.processes import KnownProcess

__all__ = ["LOOPBACK", "Service", "ServiceFolder"]

LOOPBACK = "127.0.0.1"
_LOG_LINES = 15


@dataclass(frozen=True)
class Service:
    """One of the servers.

    Attributes:
        name: shown, and that of its log.
        command: that runs it in the foreground.
        environment: variables that it gets besides those of this process.
        port: that it listens on; None where it listens on none.
        is_healthy: asks it whether it works.
        start_seconds: that it may take to become healthy.
        stop_seconds: that it may take to end before it is killed.
        path: of the page to look at first.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int | None
    is_healthy: Callable[[], bool]
    start_seconds: float = 180.0
    stop_seconds: float = 20.0
    path: str = ""

    @property
    def address(self) -> str:
        """Where it is reached."""
        return f"http://{LOOPBACK}:{self.port}" if self.port is not None else ""

    @property
    def page(self) -> str:
        """Where to look at it."""
        return f"{self.address}{self.path}"


class ServiceFolder:
    """Logs of services, and a file with the process of each.

    Args:
        path: of the folder; who starts something makes it first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def make(self) -> None:
        """Make the folder, unless it is there.

        Raises:
            UserError: when it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"the stack's folder {self.path} cannot be made: {error.strerror}. "
                "Give another --folder"
            ) from error

    def log(self, name: str) -> Path:
        """What the service printed."""
        return self.path / f"{name}.log"

    def process(self, name: str) -> psutil.Process | None:
        """The service's process; None when it does not run."""
        if name in self._children:
            self._children[name].poll()
        known = self._known().get(name)
        return known.find() if known else None

    def check_port(self, service: Service) -> None:
        """That nothing else has its port.

        Raises:
            UserError: when something has.
        """
        port = service.port
        if port is not None and self.process(service.name) is None and _answers(port):
            raise UserError(
                f"port {port}, for {service.name}, is taken by another program. Stop that, "
                f"or give another port: autofreeze stack up --{service.name}-port "
                f"{port + 1} (make stack {service.name.upper()}_PORT={port + 1})"
            )

    def start(self, service: Service) -> bool:
        """Start it, unless it runs; whether it was started.

        Raises:
            UserError: when something else has its port.
        """
        self.check_port(service)
        if self.process(service.name) is not None:
            return False
        with self.log(service.name).open("ab") as log:
            started = subprocess.Popen(
                service.command,
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group and a session of its own: neither Ctrl-C nor a closed terminal reach it.
                start_new_session=True,
            )
        self._children[service.name] = started
        known = KnownProcess.of(psutil.Process(started.pid))
        self._note({**self._known(), service.name: known})
        return True

    def wait_until_healthy(self, service: Service) -> None:
        """Return when it works.

        Raises:
            AutoFreezeError: when it ends before, or takes too long.
        """
        deadline = time.monotonic() + service.start_seconds
        while not service.is_healthy():
            running = self.process(service.name) is not None
            if running and time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            log = self.log(service.name)
            lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
            what = f"does not answer after {service.start_seconds:.0f} s" if running else "ended"
            raise AutoFreezeError(
                f"{service.name} {what}. Its log, {log}, ends with:\n" + "\n".join(lines)
            )

    def stop(self, service: Service) -> bool:
        """Stop it and what it has started; whether it ran.

        A training that the worker has started is told first: it commits, and the worker, still
        there, tells Prefect how it ended. Where it was killed, what it left is ended.
        """
        process = self.process(service.name)
        if process is None:
            _end(self._orphans(service.name), service.stop_seconds)
        else:
            while leaders := [one for one in process.children() if _leads_group(one)]:
                _end(leaders, service.stop_seconds)
            _end([process, *process.children(recursive=True)], service.stop_seconds)
        self.process(service.name)
        self._note({name: known for name, known in self._known().items() if name != service.name})
        return process is not None

    def _orphans(self, name: str) -> list[psutil.Process]:
        """Of the session of a service that died, as MLflow's workers: they keep its port.

        Nothing while its number lives: that is the service itself, or another session.
        """
        known = self._known().get(name)
        if known is None or not known.is_here or psutil.pid_exists(known.pid):
            return []
        return [one for one in psutil.process_iter() if _session(one) == known.pid]

    def _known(self) -> dict[str, KnownProcess]:
        try:
            known = json.loads(self._file.read_text())
            return {name: KnownProcess(**one) for name, one in known.items()}
        except (OSError, ValueError, TypeError):  # none yet, or one that a full disk cut short
            return {}

    def _note(self, known: Mapping[str, KnownProcess]) -> None:
        draft = self._file.with_suffix(".draft")
        draft.write_text(json.dumps({name: asdict(one) for name, one in known.items()}, indent=1))
        draft.replace(self._file)

    @property
    def _file(self) -> Path:
        return self.path / "processes.json"


def _end(processes: list[psutil.Process], seconds: float) -> None:
    """Ask, wait, and kill who is left."""
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.terminate()
    _, left = psutil.wait_procs(processes, timeout=seconds)
    for one in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=5)


def _leads_group(process: psutil.Process) -> bool:
    """False when it has ended."""
    with contextlib.suppress(ProcessLookupError):
        return os.getpgid(process.pid) == process.pid
    return False


def _session(process: psutil.Process) -> int | None:
    """None when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        return os.getsid(process.pid)
    return None


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0
