"""Against a real Prefect server."""

import os
import subprocess
import sys

import pytest

from pipelines.stack.dead_runs import mark_dead_runs
from tests.prefect_rest import prefect_answer

POOL = "dead-runs"


@pytest.fixture(scope="module")
def flow_id(prefect_server: str) -> str:
    prefect_answer("POST", f"{prefect_server}/work_pools/", name=POOL, type="process")
    return str(prefect_answer("POST", f"{prefect_server}/flows/", name="dead-runs")["id"])


def running_flow_run(server: str, flow_id: str) -> str:
    """A run in Prefect's eyes."""
    state = {"type": "RUNNING", "name": "Running"}
    url = f"{server}/flow_runs/"
    run = prefect_answer("POST", url, flow_id=flow_id, work_pool_name=POOL, state=state)
    return str(run["id"])


def note_process(server: str, run_id: str, pid: int) -> None:
    """As the worker does."""
    prefect_answer("PATCH", f"{server}/flow_runs/{run_id}", infrastructure_pid=str(pid))


def test_a_run_whose_process_is_gone_has_crashed(prefect_server: str, flow_id: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, reused, unknown, alive = (running_flow_run(prefect_server, flow_id) for _ in range(4))
    note_process(prefect_server, dead, gone.pid)
    # The number belongs to another process now: this one.
    note_process(prefect_server, reused, os.getpid())
    sleeper = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)"],
        env={**os.environ, "PREFECT__FLOW_RUN_ID": alive},
    )
    try:
        note_process(prefect_server, alive, sleeper.pid)
        assert len(mark_dead_runs(prefect_server, POOL)) == 2
    finally:
        sleeper.kill()
        sleeper.wait()
    assert state(prefect_server, dead) == state(prefect_server, reused) == "CRASHED"
    assert state(prefect_server, unknown) == state(prefect_server, alive) == "RUNNING"
    assert mark_dead_runs(prefect_server, "another-pool") == []


def state(server: str, run_id: str) -> str:
    return str(prefect_answer("GET", f"{server}/flow_runs/{run_id}")["state"]["type"])
