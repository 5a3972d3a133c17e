"""Against a server that lets connections break."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from afcore.activations.arrays import checksum, read_array
from afcore.errors import StoreUnreachableError
from afcore.storage.objects import Storage

ROWS = np.arange(400_000, dtype=np.uint32).reshape(-1, 4)


class Breaking(BaseHTTPRequestHandler):
    """Gives the first half of the rows as often as it is told, then all."""

    breaks = 0

    def do_GET(self) -> None:
        body = ROWS.tobytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Breaking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield Storage("s3://bucket/breaking")
        server.shutdown()


@pytest.mark.s3
def test_a_connection_that_breaks_is_made_again(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "breaks", 2)
    rows, label = read_array(storage, "shard", ROWS.shape, ROWS.dtype)
    assert Breaking.breaks == 0
    assert np.array_equal(rows, ROWS)
    assert label == checksum(ROWS)


@pytest.mark.s3
def test_one_that_breaks_every_time_is_said(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "breaks", 1000)
    with pytest.raises(StoreUnreachableError, match="cannot read s3://bucket/breaking/shard"):
        read_array(storage, "shard", ROWS.shape, ROWS.dtype)
    assert Breaking.breaks == 995
