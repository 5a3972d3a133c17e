"""The parent's side, against callers of the test; the workers' side is in test_launchers."""

import logging
import socket
import struct
import time
from multiprocessing.connection import Connection

import pytest

from afcore.errors import DataError
from afcore.interrupt import catch_sigterm, request_stop
from afcore.launch.connection import WorkerConnections
from afcore.launch.outcome import Outcome


def call(connections: WorkerConnections, rank: int) -> Connection:
    address = connections.address
    caller = socket.create_connection((address.host, address.port))
    connection = Connection(caller.detach())
    connection.send_bytes(address.secret)
    connection.send(rank)
    assert connection.recv() == "welcome"
    return connection


def test_what_was_sent_before_closing_is_read() -> None:
    record = logging.LogRecord("afcore.x", logging.DEBUG, "", 0, "x" * 99, None, None)
    with WorkerConnections() as connections:
        for rank in (0, 1, 2):
            with call(connections, rank) as worker:
                for _ in range(2000):
                    worker.send(record)
                if rank < 2:
                    worker.send(Outcome(DataError("né")))
    outcomes = {rank: outcome.error for rank, (_, outcome) in connections.outcomes.items()}
    assert outcomes.keys() == {0, 1}
    assert all(type(error) is DataError and str(error) == "né" for error in outcomes.values())
    assert list(connections.lost) == [2]
    assert not connections.are_any_at_work


@pytest.mark.parametrize(
    "sent",
    [
        struct.pack("!i", 32) + b"x" * 32,
        struct.pack("!i", 0),
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!i", 2**20) + b"x" * 2**20,
    ],
    ids=["another secret", "none", "a browser", "more than a secret"],
)
def test_who_does_not_know_the_secret_is_hung_up_on(sent: bytes) -> None:
    with WorkerConnections() as connections:
        address = (connections.address.host, connections.address.port)
        with socket.create_connection(address, timeout=10) as stranger:
            try:
                stranger.sendall(sent)
                assert stranger.recv(1) == b""
            except ConnectionError:  # it has not read all that it was sent
                pass
        with call(connections, 1) as worker:
            worker.send(Outcome())
    assert list(connections.outcomes) == [1]
    assert not connections.lost


def test_a_worker_that_calls_after_the_request_is_told_to_stop_too() -> None:
    with catch_sigterm(), WorkerConnections() as connections, call(connections, 0) as early:
        assert not early.poll(0.3)
        request_stop()
        assert early.recv() == "stop"
        with call(connections, 1) as late:
            assert connections.are_any_at_work
            assert late.recv() == "stop"


def test_the_launcher_can_stop_them_without_a_request_to_this_process() -> None:
    with WorkerConnections() as connections, call(connections, 0) as worker:
        connections.stop()
        assert worker.recv() == "stop"


def test_closing_waits_neither_for_the_next_look_nor_for_who_says_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("afcore.launch.connection._POLL_SECONDS", 60.0)
    with WorkerConnections() as connections:
        silent = socket.create_connection((connections.address.host, connections.address.port))
        began = time.monotonic()
    assert time.monotonic() - began < 20
    silent.close()
