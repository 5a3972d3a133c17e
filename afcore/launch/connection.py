"""A line between each worker and the process that started it, over TCP, in lines of JSON.

Up it go log records and, last, the worker's :class:`Ending`; down it goes the request to stop. It
breaks when either side dies, however that happens: a line without an ending is a lost worker, and
a worker whose line breaks ends itself.
"""

import contextlib
import contextvars
import hmac
import json
import logging
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

from afcore.interrupt import request_stop, stop_requested
from afcore.launch.outcome import Ending

__all__ = ["GRACE_SECONDS", "LineAddress", "WorkerLines", "connect"]

GRACE_SECONDS = 25.0
"""How long workers may take, once told to stop, to commit and end."""

_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 30.0


@dataclass(frozen=True)
class LineAddress:
    """Where a worker calls, and the secret that shows it is one."""

    host: str
    port: int
    secret: str


class WorkerLines:
    """The parent's side: open while inside ``with``, served by a thread.

    Workers are told to stop once :func:`afcore.interrupt.stop_requested`.

    Attributes:
        endings: by rank, with the second (monotonic clock) at which each came.
        lost: second at which the line of a worker without an ending broke, by rank.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._server = socket.create_server((host, 0), family=family)
        port = int(self._server.getsockname()[1])
        self.address = LineAddress(host, port, secrets.token_hex(16))
        self.endings: dict[int, tuple[float, Ending]] = {}
        self.lost: dict[int, float] = {}
        self._told = False
        self._closing, self._closed = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._lines: list[_Line] = []
        # In this thread's context, so that Prefect knows which task log records belong to.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._serve,), daemon=True, name="lines"
        )

    def __enter__(self) -> "WorkerLines":
        for end in (self._server, self._closed):
            self._selector.register(end, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()
        self._thread.join()
        self._closed.close()
        for line in self._lines:
            line.socket.close()
        self._server.close()
        self._selector.close()

    def _serve(self) -> None:
        closing = False
        while True:
            ready = self._selector.select(0 if closing else _POLL_SECONDS)
            if closing and not ready:  # all that had come before is read
                return
            for key, _ in ready:
                if key.fileobj is self._closed:
                    closing = True
                    self._selector.unregister(self._closed)
                elif key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            if stop_requested() and not self._told:
                self._told = True
                for line in self._lines:
                    if line.rank is not None:
                        line.tell_stop()

    def _accept(self) -> None:
        line = _Line(self._server.accept()[0])
        self._lines.append(line)
        self._selector.register(line.socket, selectors.EVENT_READ, line)

    def _read(self, line: "_Line") -> None:
        try:
            data = line.socket.recv(2**16)
        except OSError:
            data = b""
        *messages, line.rest = (line.rest + data).split(b"\n")
        if not all(self._take(line, message) for message in messages):
            data = b""  # not a worker of ours
        if not data:
            self._selector.unregister(line.socket)
            self._lines.remove(line)
            line.socket.close()
            if line.rank is not None and line.rank not in self.endings:
                self.lost[line.rank] = time.monotonic()

    def _take(self, line: "_Line", text: bytes) -> bool:
        if line.rank is None:
            secret, _, rank = text.partition(b" ")
            if not hmac.compare_digest(secret, self.address.secret.encode()):
                return False
            line.rank = int(rank)
            if self._told:
                line.tell_stop()
            return True
        message = json.loads(text)
        if "ending" in message:
            self.endings[line.rank] = time.monotonic(), Ending(**message["ending"])
        else:
            _log_here(line.rank, **message["log"])
        return True


class _Line:
    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.rest = b""
        self.rank: int | None = None

    def tell_stop(self) -> None:
        with contextlib.suppress(OSError):  # gone: its end is read next
            self.socket.sendall(b"stop\n")


def _log_here(rank: int, name: str, level: int, text: str) -> None:
    logger = logging.getLogger(name)
    if logger.isEnabledFor(level):
        logger.handle(logger.makeRecord(name, level, name, 0, f"[{rank}] {text}", (), None))


def connect(address: LineAddress, rank: int) -> Callable[[Ending], None]:
    """Call the parent, from a worker.

    From now on log records of ``afcore`` go to the parent (of rank 0 from INFO, of others from
    WARNING), a stop it asks for is requested here and enforced after :data:`GRACE_SECONDS`, and
    this process ends when the parent does.

    Returns:
        What sends the ending.
    """
    connection = socket.create_connection((address.host, address.port), _CONNECT_SECONDS)
    connection.settimeout(None)
    sending = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with sending, contextlib.suppress(OSError):  # the listening thread ends this process
            connection.sendall(json.dumps(message).encode() + b"\n")

    connection.sendall(f"{address.secret} {rank}\n".encode())
    threading.Thread(target=_listen, args=(connection,), daemon=True, name="line").start()
    logger = logging.getLogger("afcore")
    logger.handlers = [_UpTheLine(send)]
    logger.propagate = False
    logger.setLevel(logging.WARNING if rank else logging.INFO)
    return lambda ending: send({"ending": asdict(ending)})


def _listen(connection: socket.socket) -> None:
    try:
        while connection.recv(64):
            request_stop()
            connection.settimeout(GRACE_SECONDS)
    finally:
        os._exit(1)


class _UpTheLine(logging.Handler):
    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        self._send({"log": {"name": record.name, "level": record.levelno, "text": text}})
