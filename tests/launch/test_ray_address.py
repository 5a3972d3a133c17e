"""What can be wrong with Ray is said before any training."""

import socket
import sys
import time

import pytest

from afcore.errors import ConfigError
from afcore.launch import ray_train
from afcore.launch.ray_train import LaunchWithRay, check_room
from tests.conftest import free_port


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "127.0.0.1", "host:port"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(ConfigError, match="expected host:port"):
        LaunchWithRay(address)


def test_an_address_where_nobody_listens() -> None:
    with pytest.raises(ConfigError, match="does not answer"):
        LaunchWithRay(f"127.0.0.1:{free_port()}")


def test_ray_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r'pip install "autofreeze\[ray\]"'):
        LaunchWithRay()


def test_an_address_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_train, "_RAY_ANSWER_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(ConfigError, match="Ray"):
            LaunchWithRay(f"127.0.0.1:{server.getsockname()[1]}")
        assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("cluster_has", "num_workers", "worker_has", "message"),
    [
        ({"CPU": 2.0}, 2, {"CPU": 1}, None),
        ({"CPU": 1.0}, 2, {"CPU": 1}, "has CPUs for 1 workers"),
        ({"CPU": 8.0, "GPU": 4.0}, 4, {"CPU": 1, "GPU": 1}, None),
        ({"CPU": 8.0, "GPU": 1.0}, 2, {"CPU": 1, "GPU": 1}, "has GPUs for 1 workers"),
        ({"CPU": 8.0}, 1, {"CPU": 1, "GPU": 1}, "has GPUs for 0 workers"),
    ],
)
def test_a_cluster_must_have_what_workers_take(
    cluster_has: dict[str, float], num_workers: int, worker_has: dict[str, int], message: str | None
) -> None:
    if message is None:
        check_room("head:6379", cluster_has, num_workers, worker_has)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        check_room("head:6379", cluster_has, num_workers, worker_has)
    assert f"workers.max is {num_workers}, but" in str(caught.value)
    assert "head:6379" in str(caught.value)
