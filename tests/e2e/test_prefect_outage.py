"""Prefect's server goes away while a run trains, and comes back with its database, or does not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.stack.services import ServiceFolder
from pipelines.stack.stack_services import StackSettings, stack_services
from tests.conftest import free_port, write_config
from tests.prefect_rest import prefect_answer, prefect_response

pytestmark = pytest.mark.slow

RUN = """
import sys, time
from afcore.training import loop
norms, seconds = loop.norms_of_gradients, float(sys.argv.pop(1))
def slow(parameters):
    time.sleep(seconds)
    return norms(parameters)
loop.norms_of_gradients = slow
from pipelines.cli import main
main()
"""


class OwnServer:
    """A Prefect server that can be killed or halted, and started again on the same database."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("PREFECT_")},
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": self.url,
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home.with_suffix(".log")

    def start(self, **variables: str) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--no-ui"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env={**self.environment, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 180
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)

    def ask(self, kind: str) -> list[dict[str, Any]]:
        return list(prefect_answer("POST", f"{self.url}/{kind}/filter"))

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health").status_code == 200
        return False


@pytest.fixture
def server(prefect_home: Path) -> Iterator[OwnServer]:
    server = OwnServer(prefect_home)
    server.start()
    yield server
    server.stop()


class Training:
    """A run of its own process, some seconds slower at each step."""

    def __init__(
        self,
        server: OwnServer,
        tree: dict[str, Any],
        folder: Path,
        step_seconds: float = 0.0,
        **variables: str,
    ) -> None:
        self.folder, self._log = folder, folder / "run.log"
        config = write_config(folder / "config.yaml", tree)
        command = [sys.executable, "-c", RUN, str(step_seconds), "run", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--report", str(folder / "report.json")],
                env={**server.environment, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "Training":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    def ends(self) -> int:
        """Wait for it; its exit code."""
        return self._process.wait(timeout=240)

    def has(self, name: str) -> bool:
        """Whether the run has this record."""
        found = [*self.folder.glob(f"store/runs/*/{name}")]
        return bool([*found, *self.folder.glob(f"store/runs/*/*/{name}")])

    def wait_for(self, name: str) -> None:
        deadline = time.monotonic() + 240
        while not self.has(name):
            assert self.runs, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("how", "seconds", "step_seconds"),
    [
        (signal.SIGKILL, 10, 0.6),
        pytest.param(signal.SIGKILL, 30, 1.5, marks=pytest.mark.faults),
        pytest.param(signal.SIGSTOP, 30, 1.5, marks=pytest.mark.faults),
    ],
)
def test_training_goes_on_and_nothing_is_lost(
    how: signal.Signals,
    seconds: float,
    step_seconds: float,
    server: OwnServer,
    tiny_config: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Away in the middle of an epoch, and back in that of the next."""
    with Training(server, tiny_config, tmp_path, step_seconds) as run:
        run.wait_for("epochs/002/started.json")
        time.sleep(2 * step_seconds)
        server.signal(how)
        time.sleep(seconds)
        run.wait_for("epochs/003/started.json")  # it goes on
        assert run.runs
        server.start() if how == signal.SIGKILL else server.signal(signal.SIGCONT)
        assert run.ends() == 0, run.output
    expect_whole(server, run)


@pytest.mark.parametrize(
    ("how", "seconds"),
    [
        (signal.SIGKILL, 0),
        (signal.SIGKILL, 60),
        (signal.SIGSTOP, 30),
    ],
)
@pytest.mark.faults
def test_training_goes_on_to_its_end_and_waits_there(
    how: signal.Signals,
    seconds: float,
    server: OwnServer,
    tiny_config: dict[str, Any],
    tmp_path: Path,
) -> None:
    with Training(server, tiny_config, tmp_path, step_seconds=0.3) as run:
        run.wait_for("epochs/001/started.json")
        # Prefect's client waits for a server only once it has reached it with a first line.
        deadline = time.monotonic() + 60
        while not server.ask("logs"):
            assert time.monotonic() < deadline, run.output
            time.sleep(0.1)
        assert not run.has("result.json"), "the server is gone too late"
        server.signal(how)
        run.wait_for("result.json")
        time.sleep(seconds)
        assert run.runs
        server.start() if how == signal.SIGKILL else server.signal(signal.SIGCONT)
        assert run.ends() == 0, run.output
    assert "the training is done; Prefect does not answer, and is waited for" in run.output
    expect_whole(server, run)


def expect_whole(server: OwnServer, run: Training) -> None:
    """Prefect has all of the run, and nobody was told of an error."""
    output = run.output
    report = json.loads((run.folder / "report.json").read_text())
    assert [epoch["attempt"] for epoch in report["epochs"]] == [1, 1, 1]
    (flow_run,) = server.ask("flow_runs")
    assert flow_run["state"]["type"] == "COMPLETED"
    deadline = time.monotonic() + 60
    while (found := states(server)) != {"COMPLETED": 5}:
        assert time.monotonic() < deadline, (found, output)
        time.sleep(0.5)
    shown = Counter(one["key"] for one in server.ask("artifacts") if one["key"])
    assert shown == {"mlflow": 1, "epoch-progress": 3, "epochs": 3, "result": 1, "course": 1}
    lines = [one["message"] for one in server.ask("logs")]
    for epoch in (1, 2, 3):
        assert sum(f"epoch {epoch}/3 done" in line for line in lines) == 1
    assert "Traceback" not in output
    assert " ERROR " not in output, output


def states(server: OwnServer) -> Counter[str]:
    """Of the tasks: to prepare, three epochs, to publish."""
    return Counter(task["state_type"] for task in server.ask("task_runs"))


@pytest.mark.faults
def test_a_server_that_stays_away_is_one_message(
    server: OwnServer, tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    patience = {"PREFECT_CLIENT_MAX_RETRIES": "1"}
    with Training(server, tiny_config, tmp_path, **patience) as run:
        run.wait_for("epochs/003/started.json")
        server.signal(signal.SIGKILL)
        assert run.ends() == 1, run.output
    said = run.output[run.output.index("Error:") :]
    assert "the Prefect server does not answer any more" in " ".join(said.split())
    assert "Traceback" not in run.output
    server.start()
    with Training(server, tiny_config, tmp_path) as run:
        assert run.ends() == 0, run.output
    assert "the result is the recorded one" in run.output


def test_the_place_of_the_one_that_trains_outlives_the_stacks_server(
    tmp_path: Path, prefect_home: Path
) -> None:
    """Prefect stops a deployment's run whose place cannot be renewed, also minutes later."""
    server = OwnServer(prefect_home)
    settings, started = StackSettings(prefect_port=server.port), ServiceFolder(tmp_path / "stack")
    variables = dict(stack_services(settings, tmp_path, started)[0].environment)
    places = f"{server.url}/v2/concurrency_limits"
    try:
        server.start(**variables)
        prefect_answer("POST", f"{places}/", name="one", limit=1)
        taken = prefect_answer("POST", f"{places}/increment-with-lease", names=["one"], slots=1)
        lease = taken["lease_id"]
        server.signal(signal.SIGKILL)
        server.start(**variables)
        renewed = prefect_response(
            "POST", f"{places}/leases/{lease}/renew", {"lease_duration": 300}
        )
        assert renewed.status_code == 204, renewed.text
    finally:
        server.stop()
