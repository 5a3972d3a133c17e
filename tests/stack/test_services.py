"""With a real server, that of the standard library."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from afcore.errors import AutoFreezeError, UserError
from pipelines.stack.services import Service, ServiceFolder
from tests.conftest import free_port

PARENT = """
import subprocess, sys
subprocess.Popen(sys.argv[1:]).wait()
"""
WORKER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
child.wait()
print("the worker saw it end", flush=True)
import time; time.sleep(60)
"""
TRAINING = """
import signal, sys, time
def commit(*_):
    print("committed", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, commit)
print("trains", flush=True)
time.sleep(60)
"""


def web_server(port: int) -> Service:
    def is_healthy() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    command = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port))
    return Service("prefect", command, {}, port, is_healthy)


@pytest.fixture
def folder(tmp_path: Path) -> ServiceFolder:
    made = ServiceFolder(tmp_path / "stack")
    made.make()
    return made


@pytest.fixture
def running(folder: ServiceFolder) -> Iterator[Service]:
    service = web_server(free_port())
    assert folder.start(service)
    folder.wait_until_healthy(service)
    yield service
    folder.stop(service)


def test_a_service_is_found_again_and_stopped(folder: ServiceFolder, running: Service) -> None:
    process = folder.process("prefect")
    assert process is not None
    assert os.getsid(process.pid) == process.pid  # a closed terminal does not reach it
    again = ServiceFolder(folder.path)
    assert not again.start(running)
    assert again.process("prefect") == process
    assert again.stop(running)
    assert not running.is_healthy()
    assert not again.stop(running)


def test_after_a_reboot_another_process_is_not_taken_for_the_service(
    folder: ServiceFolder, running: Service
) -> None:
    process = folder.process("prefect")
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    assert folder.process("prefect") is None
    file = folder.path / "processes.json"
    known = json.loads(file.read_text())
    known["prefect"]["pid"] = os.getpid()  # its number is now that of one that began earlier
    known["prefect"]["began"] += 60.0
    file.write_text(json.dumps(known))
    assert folder.process("prefect") is None
    assert folder.start(running)
    folder.wait_until_healthy(running)


def test_what_a_killed_service_left_on_its_port_is_ended(folder: ServiceFolder) -> None:
    service = web_server(free_port())
    command = (sys.executable, "-c", PARENT, *service.command)
    service = dataclasses.replace(service, command=command)
    folder.start(service)
    folder.wait_until_healthy(service)
    process = folder.process("prefect")
    assert process is not None
    (child,) = process.children()
    process.kill()  # as the system does that has no memory left
    psutil.wait_procs([process], timeout=10)
    assert folder.process("prefect") is None
    again, file = ServiceFolder(folder.path), folder.path / "processes.json"
    known = file.read_text()
    before = {"prefect": {**json.loads(known)["prefect"], "machine": "this one, before"}}
    file.write_text(json.dumps(before))
    again.stop(service)
    assert child.is_running(), "before a reboot its number was that of another"
    file.write_text(known)
    with pytest.raises(UserError, match="is taken"):
        again.check_port(service)
    assert not again.stop(service)
    assert not child.is_running()
    again.check_port(service)


def test_a_port_that_is_taken_is_one_message(folder: ServiceFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = f"port {port}, for prefect, is taken .* --prefect-port {port + 1} "
        with pytest.raises(UserError, match=message):
            folder.start(web_server(port))
    assert folder.process("prefect") is None


def test_a_service_that_ends_is_shown_with_its_log(folder: ServiceFolder) -> None:
    command = (sys.executable, "-c", "print('no such table'); raise SystemExit(3)")
    service = Service("mlflow", command, {}, None, lambda: False)
    folder.start(service)
    with pytest.raises(AutoFreezeError, match=r"mlflow ended.*\nno such table"):
        folder.wait_until_healthy(service)


def test_a_training_that_ends_by_itself_while_its_worker_is_stopped(
    folder: ServiceFolder, running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    ended, process = psutil.Process(child.pid), folder.process("prefect")
    child.wait()
    assert process is not None
    monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: [ended])
    assert folder.stop(running)
    assert not process.is_running()
    assert folder.process("prefect") is None


def test_a_training_commits_while_its_worker_is_still_there(folder: ServiceFolder) -> None:
    command = (sys.executable, "-c", WORKER, TRAINING)
    service = Service("worker", command, {}, None, lambda: True)
    folder.start(service)
    log = folder.log("worker")
    deadline = time.monotonic() + 120
    while "trains" not in log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    folder.stop(service)
    # The worker may be stopped before it can say so; the training has committed.
    assert log.read_text().splitlines()[:2] == ["trains", "committed"]
