"""What the next start says to MLflow of runs whose process died."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest

from afcore.config import parse_config
from afcore.runs.abandoned_runs import clear_abandoned_runs
from afcore.runs.identify import identify_run
from afcore.runs.run import Run, begin_run, lease_folder, run_lease
from afcore.storage import lease as leases
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker


@pytest.fixture
def tracker(tmp_path: Path, empty_tracking_store: Path) -> Tracker:
    shutil.copy(empty_tracking_store, tmp_path / "tracked.db")
    return Tracker(f"sqlite:///{tmp_path}/tracked.db", "x")


def begun(tree: dict[str, Any], seed: int, tracker: Tracker, store: str) -> tuple[Run, str]:
    changed = tree | {"store": store, "training": tree["training"] | {"seed": seed}}
    config = parse_config(changed, source="test")
    storage = Storage(config.store)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id):
        run = begin_run(storage, record)
    parameters = {"run_id": record.run_id}
    mlflow_run_id = tracker.begin(run.record.training_id, f"{seed}", parameters=parameters)
    run.note_tracking(mlflow_run_id, [f"flow-{seed}"])
    return run, mlflow_run_id


def left_by_a_kill(run: Run) -> None:
    """Its last holder never gave the lease back, and is no process any more."""
    folder = lease_folder(run.record.run_id)
    (last,) = leases.attempts(run.storage, folder).values()
    gone = replace(last, process=replace(last.process, began=1.0), released=False)
    run.storage.put(f"{folder}/000001.json", leases._encode(gone))


def test_dead_runs_are_killed_and_others_left_alone(
    tiny_config: dict[str, Any], tracker: Tracker, tmp_path: Path
) -> None:
    store = tiny_config["store"]
    dead, dead_id = begun(tiny_config, 1, tracker, store)
    left_by_a_kill(dead)
    live, live_id = begun(tiny_config, 2, tracker, store)
    other, other_id = begun(tiny_config, 3, tracker, str(tmp_path / "other"))
    left_by_a_kill(other)
    own, own_id = begun(tiny_config, 4, tracker, store)
    with run_lease(live.storage, live.record.run_id), run_lease(own.storage, own.record.run_id):
        assert clear_abandoned_runs(own.storage, tracker, own) == ["flow-4", "flow-1"]
        assert clear_abandoned_runs(own.storage, tracker, own) == ["flow-4"]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/tracked.db")
    states = [client.get_run(one).info.status for one in (dead_id, live_id, other_id, own_id)]
    assert states == ["KILLED", "RUNNING", "RUNNING", "RUNNING"]
