"""A temporary Prefect server that lives exactly as long as the process that needs it.

Prefect would start one by itself, but SIGKILL of the flow's process leaves that one running for
ever, and it starts only after everything slow has been imported. Here the server is a child that
starts while torch is imported, and ends when the socket to its parent closes, which the kernel does
however the parent ends.

    parent                                  child
    spawn                                   read Prefect's settings
    import torch, transformers              send its URL (or nothing: a server is configured)
    set PREFECT_API_URL, import Prefect     migrate the database, send "ready"
    run flows                               serve
    end, in any way                         receive the end of file, end
"""

import atexit
import contextlib
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from afcore.errors import AutoFreezeError

if TYPE_CHECKING:
    import uvicorn

__all__ = ["ephemeral_server"]

_SLOW_IMPORTS = "afcore.runs.epoch"
_STOP_SECONDS = 10.0
_STARTUP_FAILURE = 3
# As Prefect sets for its own temporary server; without an interface nothing needs copying.
_ENVIRONMENT = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1"}


@contextlib.contextmanager
def ephemeral_server() -> Iterator[None]:
    """Start a server, unless one is configured; the body imports Prefect and what needs it.

    Prefect reads its settings when it is imported, so the body must be the first to import it; if
    it was imported before, nothing is started. On leaving, the server is ready.

    Raises:
        AutoFreezeError: when the server does not start.
    """
    if "prefect" in sys.modules or os.environ.get("PREFECT_API_URL"):
        yield
        return
    ours, its = socket.socketpair()
    process = subprocess.Popen(
        # -P: a folder of the user's that is also called `pipelines` must not be taken for ours.
        [sys.executable, "-P", "-m", "pipelines.ephemeral", str(its.fileno())],
        env={**os.environ, **_ENVIRONMENT},
        pass_fds=[its.fileno()],
        stdin=subprocess.DEVNULL,
        # Ctrl-C is for the parent, which still has to tell the server how the flow ended.
        start_new_session=True,
    )
    its.close()
    atexit.register(_stop, process, ours)
    importlib.import_module(_SLOW_IMPORTS)
    messages = ours.makefile(encoding="utf-8")
    url = _receive(messages)
    if url:
        os.environ["PREFECT_API_URL"] = url
        # Else Prefect prints links to an interface that this server does not have.
        os.environ.setdefault("PREFECT_UI_URL", "")
    yield
    if url:
        from prefect.settings import get_current_settings

        ours.settimeout(get_current_settings().server.ephemeral.startup_timeout_seconds)
        _receive(messages)


def _receive(messages: TextIO) -> str:
    try:
        line = messages.readline()
    except TimeoutError:
        line = ""
    if not line:
        raise AutoFreezeError(
            "the temporary Prefect server did not start; what it printed stands above. Start one "
            "with `prefect server start` and set PREFECT_API_URL, or allow it more time with "
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS."
        )
    return line.strip()


def _stop(process: "subprocess.Popen[bytes]", channel: socket.socket) -> None:
    channel.shutdown(socket.SHUT_RDWR)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _serve(channel: socket.socket) -> None:
    """The child's part."""
    watch = _Watch(channel)
    watch.start()
    import uvicorn
    from filelock import FileLock
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if settings.api.url or not settings.server.ephemeral.enabled:
        channel.sendall(b"\n")
        return
    listener = socket.create_server(("127.0.0.1", 0))
    channel.sendall(f"http://127.0.0.1:{listener.getsockname()[1]}/api\n".encode())
    from prefect.server.api.server import create_app

    settings.home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.home / "autofreeze-server.lock")

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            # Each of Prefect's migrations is there or not, but two must not migrate at once.
            with lock:
                await super().startup(sockets)
            with contextlib.suppress(OSError):
                channel.sendall(b"ready\n")

    app = create_app(ephemeral=True, final=True)
    watch.server = Server(uvicorn.Config(app, lifespan="on", log_level="error"))
    watch.server.run(sockets=[listener])


class _Watch(threading.Thread):
    """Waits for the end of file and stops the server, by force if need be."""

    def __init__(self, channel: socket.socket) -> None:
        super().__init__(name="watch", daemon=True)
        self.server: uvicorn.Server | None = None
        self._channel = channel

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while self._channel.recv(1):
                pass
        if self.server is None:
            os._exit(_STARTUP_FAILURE)
        self.server.should_exit = True
        # While it starts, it may be migrating the database, which had better not stay half done.
        while not self.server.started:
            time.sleep(0.1)
        time.sleep(_STOP_SECONDS)
        os._exit(1)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
