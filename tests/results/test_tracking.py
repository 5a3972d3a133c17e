"""Against a real MLflow store on SQLite."""

import shutil
import time
from pathlib import Path

import mlflow
import pytest

from afcore.errors import DataError, StoppedError, UserError
from afcore.freezing.policy import FreezeState
from afcore.results.tracking import Tracker, flat_parameters
from afcore.runs.records import CheckpointRecord, EpochRecord
from afcore.training.trained import StepLog
from tests.reports import make_report


@pytest.fixture
def uri(tmp_path: Path, empty_tracking_store: Path) -> str:
    shutil.copy(empty_tracking_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def records() -> tuple[CheckpointRecord, EpochRecord]:
    report = make_report()
    checkpoint = CheckpointRecord(
        step=3,
        freeze=FreezeState(1),
        parts={},
        materialize=False,
        read_from=None,
        next=None,
        report=report.epochs[0],
        decisions=report.decisions,
        intervals=[
            report.intervals[0].model_copy(update={"step": step}) for step in (5, 10, 15, 20)
        ],
        interval_times=[1000.0, 1001.0, 1002.0, 1003.0],
        steps=[StepLog(step, 1000.0 + step, 1 / step, 1e-3, 0) for step in (1, 2, 3)],
    )
    return checkpoint, EpochRecord(report=report.epochs[0], next=None, finished=1010.0)


def test_a_training_goes_on_in_its_run_without_double_steps(uri: str) -> None:
    first = Tracker(uri, "x")
    run_id = first.begin("t1", "name", mode="cached", parameters={"a": {"b": 1}})
    first.log_epoch(run_id, *records())
    again = Tracker(uri, "x")
    assert again.begin("t1", "name", mode="cached") == run_id
    assert again.begin("t2", "other") != run_id
    again.log_epoch(run_id, *records())
    client = mlflow.MlflowClient(uri)
    history = {
        name: [(m.step, m.value) for m in client.get_metric_history(run_id, name)]
        for name in client.get_run(run_id).data.metrics
    }
    assert history["train/loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert history["freeze/boundary"] == [(5, 0), (10, 1), (15, 1), (20, 2)]
    assert history["freeze/eta_block_03"] == [(10, 0.4), (20, 0.4)]
    assert history["freeze/eta_block_00"] == [(10, 0.1)]
    assert history["validation/accuracy"] == [(1, 0.6)]
    assert history["epoch/train_seconds"] == [(1, 10.0)]
    run = client.get_run(run_id)
    assert run.data.params == {"a.b": "1"}
    assert run.data.tags["execution_mode"] == "cached"


def test_many_parameters_and_metrics_are_batched(uri: str) -> None:
    tracker = Tracker(uri, "x")
    run_id = tracker.begin("t", "n", parameters={f"p{i}": i for i in range(250)})
    tracker.log_summary(run_id, {f"m{i}": i for i in range(2500)}, time.time())
    run = mlflow.MlflowClient(uri).get_run(run_id)
    assert (len(run.data.params), len(run.data.metrics)) == (250, 2500)


def test_children_stand_under_their_parent(uri: str) -> None:
    tracker = Tracker(uri, "x")
    parent = tracker.begin("p", "compare")
    child, late = tracker.begin("c", "child", parent=parent), tracker.begin("d", "late")
    tracker.set_parent(late, parent)
    client = mlflow.MlflowClient(uri)
    for run_id in (child, late):
        assert client.get_run(run_id).data.tags["mlflow.parentRunId"] == parent


ENDS = [
    (None, "FINISHED"),
    (DataError("no rows"), "FAILED"),
    (StoppedError("after step 3"), "KILLED"),
    (KeyboardInterrupt(), "KILLED"),
]


def test_reports_and_ends(uri: str) -> None:
    tracker = Tracker(uri, "x")
    run_id = tracker.begin("t", "n")
    tracker.log_report(run_id, make_report(), 1000.0)
    client = mlflow.MlflowClient(uri)
    for error, status in ENDS:
        tracker.finish(run_id, error)
        assert client.get_run(run_id).info.status == status
    run = client.get_run(run_id)
    assert run.data.metrics["test/accuracy"] == 0.65
    assert run.data.metrics["total/cost_usd"] == 0.02
    assert [a.path for a in client.list_artifacts(run_id)] == ["report.json"]
    tracker.begin("t", "n")
    assert client.get_run(run_id).info.status == "RUNNING"


def test_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no database, and not empty")
    with pytest.raises(UserError, match=r"tracking.uri .* cannot be used"):
        Tracker(f"sqlite:///{tmp_path}/file", "x")


def test_flat_parameters() -> None:
    assert flat_parameters({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": "1", "d": "[1, 2]"}
