"""Invariant 4: killed at any instant and started again by the same command, a run ends with the
weights, metrics and decisions of one that was not. The kill is a real SIGKILL of the command.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from afcore.config import load_config
from afcore.runs.identify import identify_run
from afcore.runs.run import run_lease
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from tests.conftest import write_config
from tests.e2e.command import autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]

COMMAND = [sys.executable, "-c", "from pipelines.cli import main; main()", "run"]


def start(config: Path, report: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, str(config), "--report", str(report)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(config: Path, report: Path) -> dict[str, Any]:
    """In this process, which has imported everything."""
    assert autofreeze("run", config, "--report", report) == 0
    tree: dict[str, Any] = json.loads(report.read_text())
    return tree


def kill_when_there_is(config: Path, report: Path, store: Path, name: str) -> None:
    process = start(config, report)
    deadline = time.monotonic() + 240
    while not list(store.glob(f"runs/*/*/epochs/{name}")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not list(store.glob("runs/*/*/result.json"))


def outcome(store: Path, report: dict[str, Any]) -> dict[str, Any]:
    """Everything that must not depend on the kill."""
    storage = Storage(str(store))
    last = report["epochs"][-1]["epoch"]
    (key,) = [key for key in storage.list("runs") if key.endswith(f"{last:03d}/checkpoint.json")]
    checkpoint = json.loads(storage.get(key))
    return {
        "run_id": report["run_id"],
        "weights and moments": checkpoint["parts"],
        "losses": [step["loss"] for step in checkpoint["trained"]["steps"]],
        "decisions": report["decisions"],
        "epochs": [
            {name: epoch[name] for name in ("read_from", "validation", "train_loss")}
            for epoch in report["epochs"]
        ],
        "test": report["totals"]["test"],
    }


def undisturbed_outcome(config: Path, store: Path) -> dict[str, Any]:
    """Of a run without the flow, whose numbers are the same."""
    _, report = complete_run(load_config(str(config)))
    return outcome(store, json.loads(report.model_dump_json(by_alias=True)))


@pytest.fixture
def tree(tiny_config: dict[str, Any]) -> dict[str, Any]:
    tiny_config["training"] |= {"epochs": 3, "precision": "auto"}
    return tiny_config


def place(tree: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    shutil.copy(tree["tracking"]["uri"].removeprefix("sqlite:///"), folder / "mlflow.db")
    changed = {
        "store": str(folder / "store"),
        "tracking": {"uri": f"sqlite:///{folder}/mlflow.db", "experiment": "kill"},
    }
    return write_config(folder / "config.yaml", tree | changed)


def test_invariant_4_killed_and_started_again(tree: dict[str, Any], tmp_path: Path) -> None:
    expected = undisturbed_outcome(place(tree, tmp_path / "whole"), tmp_path / "whole/store")
    assert "activations@" in expected["epochs"][2]["read_from"]
    moments = ["002/checkpoint.json", "003/started.json"]
    killed = place(tree, tmp_path / "killed")
    store, path = tmp_path / "killed/store", tmp_path / "killed.json"
    for name in moments:
        kill_when_there_is(killed, path, store, name)
    report = finish(killed, path)
    assert outcome(store, report) == expected
    assert report["epochs"][2]["resumed"]
    assert report["epochs"][2]["attempt"] == len(moments) + 1
    assert report["totals"]["lost_seconds"] > 0
    _check_tracked_once(f"sqlite:///{tmp_path}/killed/mlflow.db", report)
    assert _flow_states(tmp_path / "killed") == ["Completed", "Crashed", "Crashed"]


def _flow_states(folder: Path) -> list[str]:
    """Of the flow runs that trained what lies in the folder, in the order of their names."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
    of_folder = [one for one in runs if str(folder) in str(one.parameters)]
    return sorted(one.state.name for one in of_folder if one.state is not None)


def _check_tracked_once(uri: str, report: dict[str, Any]) -> None:
    client = mlflow.MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "kill"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == report["mlflow_run_id"]
    assert run.info.status == "FINISHED"
    for name in ("train/loss", "validation/accuracy"):
        steps = [m.step for m in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, len(steps) + 1)), name


def test_two_processes_do_not_train_the_same_run(
    tree: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree["training"] |= {"epochs": 1}
    config = place(tree | {"mode": "full"}, tmp_path / "run")
    resolved = load_config(str(config), [])
    storage = Storage(resolved.store)
    with run_lease(storage, identify_run(resolved, storage).run_id):
        assert autofreeze("run", config) == 2
        output = "".join(capfd.readouterr())
        assert f"already being worked on by process {os.getpid()}" in " ".join(output.split())
        assert "Traceback" not in output
    assert autofreeze("run", config) == 0


SEEDS = 30


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(SEEDS))
def test_killed_at_a_random_instant(
    tree: dict[str, Any],
    tmp_path: Path,
    seed: int,
    undisturbed: dict[str, Any],
    record_property: Callable[[str, object], None],
) -> None:
    """Of the command, and of a worker of its; twice, then it ends as if nothing had happened."""
    draw = random.Random(seed)
    if seed % 3 == 0:  # two trainers under torchrun, of which one or the command is killed
        tree |= {"workers": {"max": 2, "min": 2}, "mode": "freeze"}
    kind = str(seed % 3 == 0)
    if kind not in undisturbed:
        whole = place(tree, tmp_path / "whole")
        undisturbed[kind] = undisturbed_outcome(whole, tmp_path / "whole/store")
    killed = place(tree, tmp_path / "killed")
    path = tmp_path / "killed.json"
    for _ in range(2):
        process = start(killed, path)
        store = tmp_path / "killed/store"
        while not list(store.glob("runs/*/run.json")) and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0.0, 8.0))
        victims = [process.pid, *(one.pid for one in psutil.Process(process.pid).children(True))]
        if process.poll() is None:
            os.kill(process.pid if draw.random() < 0.5 else draw.choice(victims), signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=120)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    report = finish(killed, path)
    assert outcome(tmp_path / "killed/store", report) == undisturbed[kind]
    record_property("repeated_seconds", report["totals"]["lost_seconds"])
