"""Two workers on a machine: the second one's run waits until the first one's has ended."""

import contextvars
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from afcore.config import WorkersConfig, parse_config
from afcore.storage.objects import Storage
from pipelines import device_lock
from pipelines.device_lock import one_run_a_device

HOLD = """
from afcore.config import WorkersConfig
from pipelines.device_lock import one_run_a_device
with one_run_a_device(WorkersConfig()):
    print("held", flush=True)
    input()
"""
WAITING = "waiting: another run trains on the device cpu of this machine"


@pytest.fixture(autouse=True)
def _of_a_deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a-deployment")
    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "locks"))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def holder() -> Iterator["subprocess.Popen[str]"]:
    """Another process, that holds the device."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture
def held() -> Iterator[FileLock]:
    """The device, held by another file descriptor of this process."""
    with FileLock(device_lock._folder() / "cpu.lock") as lock:
        yield lock


def wait_for(text: str, caplog: pytest.LogCaptureFixture) -> None:
    deadline = time.monotonic() + 120
    while text not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.05)


def test_a_training_waits_for_the_device_and_counts_none_of_it(
    holder: "subprocess.Popen[str]",
    prefect_server: str,
    tiny_config: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    from pipelines.finetune import finetune

    tiny_config["training"]["epochs"] = 1
    config, done = parse_config(tiny_config, source="test"), list[dict[str, Any]]()
    caplog.set_level("INFO", "afcore")
    began = time.time()
    in_context = contextvars.copy_context().run  # which knows the server
    waits = threading.Thread(target=in_context, args=(lambda: done.append(finetune(config)),))
    waits.start()
    wait_for(WAITING, caplog)
    assert not [key for key in Storage(config.store).list("runs") if "/epochs/" in key]
    time.sleep(2.0)
    assert waits.is_alive()
    holder.kill()  # as a worker may die: the system lets go of the lock
    waits.join(300)
    (report,) = done
    assert report["totals"]["wall_seconds"] <= time.time() - began - 2.0


def test_a_command_in_a_terminal_does_not_wait(
    held: FileLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT__RUNTIME__DEPLOYMENT__ID")
    with one_run_a_device(WorkersConfig()):
        assert held.is_locked


def test_a_cluster_gives_its_devices_by_itself(held: FileLock) -> None:
    with one_run_a_device(WorkersConfig(launcher="ray", ray_address="auto")):
        assert held.is_locked
