"""A TCP connection between each worker and the process that started it.

Up it go log records and, last, the worker's :class:`Outcome`; down it goes the request to stop. It
breaks when either side dies, however that happens: a connection that ends without an outcome is a
lost worker, and a worker whose connection ends, ends itself.

:mod:`multiprocessing.connection` frames and pickles the messages. Its own way of finding out who
calls speaks no IPv6 and uses MD5; here who does not send the secret first is hung up on, and
nothing of it is unpickled.
"""

import contextlib
import contextvars
import hmac
import logging
import logging.handlers
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from afcore.interrupt import is_committing, request_stop, stop_requested
from afcore.launch.outcome import Outcome

__all__ = ["GRACE_SECONDS", "ParentAddress", "WorkerConnections", "connect"]

GRACE_SECONDS = 25.0
"""How long workers may take, once told to stop, to begin their commit and to end after it."""

_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 30.0
_MAX_SECRET_BYTES = 64


@dataclass(frozen=True)
class ParentAddress:
    """Where a worker calls, and the secret that shows it is one."""

    host: str
    port: int
    secret: bytes


class WorkerConnections:
    """The parent's side: open while inside ``with``, served by a thread for each worker.

    Workers are told to stop once :func:`afcore.interrupt.stop_requested`, or by :meth:`stop`.

    Attributes:
        outcomes: by rank, with the second (monotonic clock) at which each came.
        lost: second at which the connection to a worker without an outcome broke, by rank.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family)
        port = int(self._server.getsockname()[1])
        self.address = ParentAddress(host, port, secrets.token_bytes(32))
        self.outcomes: dict[int, tuple[float, Outcome]] = {}
        self.lost: dict[int, float] = {}
        self._stopping = False
        self._closing = False
        self._serving: dict[int, threading.Thread] = {}

    def __enter__(self) -> "WorkerConnections":
        self._accepting = _start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        self._server.shutdown(socket.SHUT_RDWR)  # which ends the wait for a caller
        self._accepting.join()
        self._server.close()
        for thread in list(self._serving.values()):
            thread.join()

    def stop(self) -> None:
        """Ask all workers to stop, those that call later too."""
        self._stopping = True

    @property
    def are_any_at_work(self) -> bool:
        """Whether a worker is connected that has not ended."""
        return bool(self._serving.keys() - self.outcomes.keys() - self.lost.keys())

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                caller, _ = self._server.accept()
                _start(self._serve, Connection(caller.detach()))

    def _serve(self, connection: Connection) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            secret = connection.recv_bytes(_MAX_SECRET_BYTES)
            if hmac.compare_digest(secret, self.address.secret):
                rank = int(connection.recv())
                self._serving[rank] = threading.current_thread()
                self._serve_worker(connection, rank)

    def _serve_worker(self, connection: Connection, rank: int) -> None:
        told = False
        try:
            connection.send("welcome")
            while True:
                if not told and (self._stopping or stop_requested()):
                    connection.send("stop")
                    told = True
                if connection.poll(0 if self._closing else _POLL_SECONDS):
                    self._take(rank, connection.recv())
                elif self._closing:  # all that had come before is read
                    return
        except (EOFError, OSError):
            if rank not in self.outcomes:
                self.lost[rank] = time.monotonic()

    def _take(self, rank: int, message: Outcome | logging.LogRecord) -> None:
        if isinstance(message, Outcome):
            self.outcomes[rank] = time.monotonic(), message
            return
        logger = logging.getLogger(message.name)
        if logger.isEnabledFor(message.levelno):
            message.msg = f"[{rank}] {message.msg}"
            logger.handle(message)


def _start(target: Callable[..., None], *args: Any) -> threading.Thread:
    """In this thread's context, so that Prefect knows which task log records belong to."""
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(target, *args), daemon=True, name=target.__name__)
    thread.start()
    return thread


def connect(address: ParentAddress, rank: int) -> Callable[[Outcome], None]:
    """Call the parent, from a worker.

    From now on log records of ``afcore`` go to the parent (of rank 0 from INFO, of others from
    WARNING), a stop it asks for is requested here and enforced after :data:`GRACE_SECONDS`, but not
    within a commit, and this process ends when the parent does.

    Returns:
        What sends the outcome.
    """
    caller = socket.create_connection((address.host, address.port), _CONNECT_SECONDS)
    caller.settimeout(None)
    connection = Connection(caller.detach())
    connection.send_bytes(address.secret)
    connection.send(rank)
    connection.recv()  # from here on the parent hears all, however soon this process ends
    _start(_obey, connection)
    handler = _ToParent(connection)
    logger = logging.getLogger("afcore")
    logger.handlers = [handler]
    logger.propagate = False
    logger.setLevel(logging.WARNING if rank else logging.INFO)
    return handler.enqueue


def _obey(connection: Connection) -> None:
    try:
        connection.recv()
        request_stop()
        until = time.monotonic() + GRACE_SECONDS
        while not connection.poll(_POLL_SECONDS) and time.monotonic() < until:
            if is_committing():
                until = time.monotonic() + GRACE_SECONDS
    finally:
        os._exit(1)


class _ToParent(logging.handlers.QueueHandler):
    """Sends log records, each with its text made, and whatever else is put into its queue."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._connection = connection
        self._sending = threading.Lock()

    def enqueue(self, record: Any) -> None:
        """Send it."""
        with self._sending, contextlib.suppress(OSError):  # the obeying thread ends this process
            self._connection.send(record)
