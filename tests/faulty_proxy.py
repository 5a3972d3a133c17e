"""An HTTP proxy in front of a real server, which disturbs some of the requests."""

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("503", "timeout", "reset", "cut short")
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class FaultyProxy(ThreadingHTTPServer):
    """Hands requests on to ``upstream``, but for a share of them, drawn from a seed.

    Attributes:
        share: of the requests that are disturbed.
        happened: how often each fault was injected.
        read_only: what would write is forbidden, as by a policy that was changed.
        names_conditions: an answer says which condition was not met, as S3 of Amazon does and many
            other servers do not.
        conflicts: so many creations to come are answered as of a conflict with another one.
    """

    daemon_threads = True

    def __init__(self, upstream: str, share: float, seed: int, silence_seconds: float) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.share, self.silence_seconds = share, silence_seconds
        self.read_only = False
        self.names_conditions, self.conflicts = True, 0
        self.happened: Counter[str] = Counter()
        self._draw, self._lock = random.Random(seed), threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str | None:
        with self._lock:
            if self._draw.random() >= self.share:
                return None
            fault = self._draw.choice(FAULTS)
            self.happened[fault] += 1
            return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def handle_any(self) -> None:
        fault = self.server.draw()
        if fault == "reset":
            return self._reset()
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if fault == "timeout":
            time.sleep(self.server.silence_seconds)
            return self._reset()
        if self.server.read_only and self.command in ("PUT", "POST", "DELETE"):
            return self._answer(403, [], b"<Error><Code>AccessDenied</Code></Error>")
        if self.server.conflicts and self.headers.get("If-None-Match"):
            self.server.conflicts -= 1
            return self._answer(409, [], b"<Error><Code>ConditionalRequestConflict</Code></Error>")
        if fault == "503":
            return self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        headers = [(k, v) for k, v in answer.getheaders() if k.lower() not in _HOP_BY_HOP]
        data = answer.read()
        if not self.server.names_conditions:
            data = re.sub(rb"<Condition>.*?</Condition>", b"", data)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else None
        connection.close()
        self._answer(answer.status, headers, data, size, cut=fault == "cut short")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def _answer(
        self,
        status: int,
        headers: list[tuple[str, str]],
        data: bytes,
        size: str | None = None,
        cut: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", size or str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self._reset()

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@contextmanager
def faulty_proxy(
    upstream: str, share: float, seed: int, silence_seconds: float = 0.5
) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream, share, seed, silence_seconds)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
