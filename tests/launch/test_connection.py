"""The parent's side, against sockets of the test; the workers' side is in test_launchers."""

import json
import logging
import socket
import time

import pytest

from afcore.interrupt import catch_sigterm, request_stop
from afcore.launch.connection import WorkerLines
from afcore.launch.outcome import Ending


def call(lines: WorkerLines, rank: int, secret: str | None = None) -> socket.socket:
    connection = socket.create_connection((lines.address.host, lines.address.port), timeout=10)
    connection.sendall(f"{secret or lines.address.secret} {rank}\n".encode())
    return connection


def send(connection: socket.socket, **message: object) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def test_what_was_sent_before_closing_is_read() -> None:
    with WorkerLines() as lines:
        for rank in (0, 1, 2):
            with call(lines, rank) as worker:
                for _ in range(2000):
                    send(worker, log={"name": "afcore.x", "level": logging.DEBUG, "text": "x" * 99})
                if rank < 2:
                    send(worker, ending={"error": "DataError", "message": "né", "ours": True})
    assert {rank: ending for rank, (_, ending) in lines.endings.items()} == {
        0: Ending("DataError", "né", ours=True),
        1: Ending("DataError", "né", ours=True),
    }
    assert list(lines.lost) == [2]


@pytest.mark.parametrize("text", ["wrong 0\n", "GET / HTTP/1.1\r\n\r\n", "\n", '{"secret": 1}\n'])
def test_who_does_not_know_the_secret_is_hung_up_on(text: str) -> None:
    with WorkerLines() as lines:
        address = (lines.address.host, lines.address.port)
        with socket.create_connection(address, timeout=10) as stranger:
            stranger.sendall(text.encode())
            assert stranger.recv(1) == b""
        with call(lines, 1) as worker:
            send(worker, ending={})
    assert list(lines.endings) == [1]
    assert not lines.lost


def test_a_worker_that_calls_after_the_request_is_told_to_stop_too() -> None:
    with catch_sigterm(), WorkerLines() as lines, call(lines, 0) as early:
        request_stop()
        assert early.recv(64) == b"stop\n"
        with call(lines, 1) as late:
            assert late.recv(64) == b"stop\n"


def test_closing_does_not_wait_for_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afcore.launch.connection._POLL_SECONDS", 60.0)
    with WorkerLines():
        began = time.monotonic()
    assert time.monotonic() - began < 20
