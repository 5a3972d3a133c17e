"""Against a real MLflow store on SQLite."""

import errno
import math
import os
import shutil
import time
from pathlib import Path

import mlflow
import pytest
import requests
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from afcore.errors import (
    DataError,
    StoppedError,
    StorageFullError,
    TrackingError,
    TrackingUnreachableError,
    UserError,
)
from afcore.freezing.policy import FreezeDecision, FreezeState, Interval
from afcore.results.report import EpochReport
from afcore.runs.records import CheckpointRecord
from afcore.tasks.known_tasks import TASKS
from afcore.tasks.text_regression import TextRegression
from afcore.tracking.models import MODEL_TAG
from afcore.tracking.tracker import Tracker, flat_parameters
from afcore.training.trained import StepLog, TrainedEpoch
from tests.reports import make_report


@pytest.fixture
def uri(tmp_path: Path, empty_tracking_store: Path) -> str:
    shutil.copy(empty_tracking_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


def epoch_of(steps: list[StepLog], intervals: list[Interval]) -> CheckpointRecord:
    return CheckpointRecord(
        epoch=1,
        num_workers=1,
        step=3,
        freeze=FreezeState(1),
        parts={},
        trained=TrainedEpoch(steps=steps, intervals=intervals),
        seconds={},
        checkpoint_seconds=0.0,
        attempt=1,
        launch_seconds=0.0,
        build_seconds=0.0,
        built_bytes=0,
        prediction_error=None,
        candidate=True,
        next=None,
    )


def records() -> tuple[EpochReport, list[tuple[str, float, float, int]]]:
    report = make_report()
    decisions = {
        10: FreezeDecision((0.1, 0.2, 0.3, 0.4), math.inf, 0, 1),
        20: FreezeDecision((math.nan, 0.2, 0.3, 0.4), 0.2, 1, 2),
    }
    intervals = [
        Interval(
            1000.0 + number,
            report.intervals[0].model_copy(update={"step": step}),
            decisions.get(step),
        )
        for number, step in enumerate((5, 10, 15, 20))
    ]
    steps = [StepLog(step, 1000.0 + step, 1 / step, 1e-3, 0) for step in (1, 2, 3)]
    return report.epochs[0], epoch_of(steps, intervals).metrics()


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


def states(uri: str) -> dict[str, tuple[str, str]]:
    """Stage and status by name, of all runs in the experiment ``x``."""
    client = mlflow.MlflowClient(uri)
    found = client.search_runs(
        [client.get_experiment_by_name("x").experiment_id],
        run_view_type=mlflow.entities.ViewType.ALL,
    )
    return {run.info.run_name: (run.info.lifecycle_stage, run.info.status) for run in found}


def test_a_deleted_experiment_is_restored_for_a_training_and_its_runs_are_not(
    uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = mlflow.MlflowClient(uri)
    tracker = Tracker(uri, "x")
    run_id = tracker.begin("t1", "resumed")
    tracker.finish(tracker.begin("t2", "other"))
    experiment_id = client.get_run(run_id).info.experiment_id
    client.delete_experiment(experiment_id)
    assert Tracker(uri, "x").begin("t3", "new") != run_id
    assert client.get_experiment(experiment_id).lifecycle_stage == "active"
    assert states(uri) == {
        "resumed": ("deleted", "RUNNING"),
        "other": ("deleted", "FINISHED"),
        "new": ("active", "RUNNING"),
    }
    client.delete_experiment(experiment_id)
    tracker.log_epoch(run_id, *records())  # in the middle of a training
    tracker.finish(run_id)
    assert states(uri) == {
        "resumed": ("active", "FINISHED"),
        "other": ("deleted", "FINISHED"),
        "new": ("deleted", "RUNNING"),
    }
    assert [m.value for m in client.get_metric_history(run_id, "validation/accuracy")] == [0.6]
    assert caplog.text.count("MLflow experiment 'x' was deleted; it is restored") == 2
    assert caplog.text.count(f"MLflow run {run_id} was deleted") == 1


def test_a_deleted_run_is_restored_when_its_training_goes_on(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    tracker = Tracker(uri, "x")
    run_id, parent = tracker.begin("t", "a"), tracker.begin("p", "compare")
    for write in (
        lambda: tracker.log_summary(run_id, {"m": 1.0}, 1000.0),
        lambda: tracker.set_parent(run_id, parent),
        lambda: tracker.finish(run_id),
        lambda: tracker.begin("t", "a"),
    ):
        client.delete_run(run_id)
        write()
        assert client.get_run(run_id).info.lifecycle_stage == "active"
    run = client.get_run(run_id)
    assert run.data.metrics == {"m": 1.0}
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert states(uri) == {"a": ("active", "RUNNING"), "compare": ("active", "RUNNING")}


def test_a_run_is_found_whatever_its_name_and_status(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    run_id = Tracker(uri, "x").begin("t", "name", mode="cached", parameters={"a": 1})
    client.update_run(run_id, status="FAILED", name="renamed")
    client.delete_tag(run_id, "execution_mode")
    # As after a kill between making a run and logging its parameters; those there stay as they are.
    assert (
        Tracker(uri, "x").begin("t", "name", mode="cached", parameters={"a": 2, "b": 3}) == run_id
    )
    run = client.get_run(run_id)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "renamed")
    assert run.data.tags["execution_mode"] == "cached"
    assert run.data.params == {"a": "1", "b": "3"}


def test_a_run_that_cannot_be_found_any_more_is_logged_anew(uri: str) -> None:
    client = mlflow.MlflowClient(uri)
    first = Tracker(uri, "x").begin("t", "name")
    client.delete_tag(first, "autofreeze.training_id")
    second = Tracker(uri, "x").begin("t", "name")
    client.rename_experiment(client.get_run(first).info.experiment_id, "renamed")
    third = Tracker(uri, "x").begin("t", "name")
    assert len({first, second, third}) == 3
    assert client.get_experiment(client.get_run(third).info.experiment_id).name == "x"
    with pytest.raises(TrackingError, match="what is committed stands, and the same command"):
        Tracker(uri, "x").log_summary("0" * 32, {"m": 1.0}, 1000.0)


def test_a_run_is_waited_for_by_who_waits(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, other = Tracker(uri, "x", waits=True), Tracker(uri, "x")
    create, silences = mlflow.MlflowClient.create_run, iter([1])

    def silent_once(*args: object, **kwargs: object) -> object:
        if next(silences, None):
            raise requests.ConnectionError("refused")
        return create(*args, **kwargs)

    monkeypatch.setattr(mlflow.MlflowClient, "create_run", silent_once)
    run_id = waiting.begin("t", "a", parameters={"a": {"b": 1}})
    assert mlflow.MlflowClient(uri).get_run(run_id).data.params == {"a.b": "1"}
    silences = iter([1])
    with pytest.raises(TrackingUnreachableError):
        other.begin("u", "b")


def test_two_that_make_an_experiment_at_once(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Tracker(uri, "x"), Tracker(uri, "x")
    run_id = first.begin("t", "a")
    look, answers = mlflow.MlflowClient.get_experiment_by_name, iter([None])
    monkeypatch.setattr(
        mlflow.MlflowClient,
        "get_experiment_by_name",
        lambda client, name: next(answers, look(client, name)),
    )
    assert second.begin("t", "a") == run_id


STOPPED_IN_A_FILE = DataError("cannot load the data")
STOPPED_IN_A_FILE.__cause__ = StoppedError()
ENDS = [
    (None, "FINISHED"),
    (DataError("no rows"), "FAILED"),
    (StoppedError("after step 3"), "KILLED"),
    (STOPPED_IN_A_FILE, "KILLED"),
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


def test_a_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingUnreachableError) as raised:
        Tracker("http://user:secret@127.0.0.1:9", "x")
    assert str(raised.value) == (
        "MLflow at tracking.uri 'http://127.0.0.1:9' does not answer (Connection refused). See "
        "that it runs; what is committed stands, and the same command goes on from there."
    )
    assert raised.value.exit_code == 2


def test_a_second_problem_does_not_hide_the_first(
    uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker(uri, "x")
    tracker.begin("t", "n")
    gone = "0" * 32
    tracker.finish(gone, DataError("no rows"))
    assert f"MLflow run {gone} is not marked as FAILED" in caplog.text
    with pytest.raises(TrackingError):
        tracker.finish(gone)
    monkeypatch.setattr(tracker, "_client", None)  # it would raise, were it asked
    tracker.finish(gone, TrackingUnreachableError("no answer"))


def test_flat_parameters() -> None:
    assert flat_parameters({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": "1", "d": "[1, 2]"}


def test_a_model_of_a_folder_is_not_looked_for_on_the_hub(
    tiny_bert: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("huggingface_hub.ModelCard.load", lambda name: asked.append(name))
    monkeypatch.chdir(tiny_bert.parent)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert.name)
    tracker = Tracker(uri, "test")
    run_id = tracker.begin("t", "n")
    task = TASKS["text-regression"](pad_token_id=0)
    tracker.log_model(run_id, model, AutoTokenizer.from_pretrained(tiny_bert), task)
    assert asked == [str(tiny_bert)]


def test_a_model_without_a_pipeline_is_saved_and_read_again(tiny_bert: Path, uri: str) -> None:
    class NoPipeline(TextRegression):
        pipeline_tag = "reading-of-tea-leaves"

    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1)
    tracker = Tracker(uri, "test")
    run_id = tracker.begin("t", "n")
    logged = tracker.log_model(
        run_id, model, AutoTokenizer.from_pretrained(tiny_bert), NoPipeline(pad_token_id=0)
    )
    assert logged == f"runs:/{run_id}/model"
    read = tracker.load_model(run_id, "AutoModelForSequenceClassification").state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.equal(read[name]), name


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (requests.ConnectionError("refused"), TrackingUnreachableError, r"does not answer \(refus"),
        (OSError(errno.ENOSPC, "No space"), StorageFullError, "^no space left for what MLflow"),
        (
            ValueError("no file at http://me:secret@host/x"),
            UserError,
            r"^the .* cannot be read: no file at http://host/x\. Train anew with --fresh$",
        ),
    ],
)
def test_only_what_is_gone_is_to_be_trained_anew(
    uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    kind: type[Exception],
    said: str,
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise error

    tracker = Tracker(uri, "x")
    run_id = tracker.begin("t", "n")
    tracker.set_tag(run_id, MODEL_TAG, f"runs:/{run_id}/model")
    tracker.log_text(run_id, "{}", "adapter/adapter_config.json")
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", refuse)
    for read in (
        lambda: tracker.load_model(run_id, "AutoModelForSequenceClassification"),
        lambda: tracker.fetch_folder(run_id, tmp_path / "new", "adapter"),
    ):
        with pytest.raises(kind, match=said) as raised:
            read()
        assert type(raised.value) is kind
        assert ("--fresh" in str(raised.value)) == (kind is UserError)


def test_a_folder_has_as_long_as_a_model(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of a large vocabulary beside the adapters takes its time through MLflow's server."""
    name, seen = "MLFLOW_HTTP_REQUEST_TIMEOUT", list[str]()
    monkeypatch.setenv(name, "15")
    monkeypatch.setattr(
        mlflow.MlflowClient, "log_artifacts", lambda *_, **__: seen.append(os.environ[name])
    )
    tracker = Tracker(uri, "x")
    tracker.log_folder(tracker.begin("t", "n"), "folder", "adapter")
    assert seen == ["300"]
    assert os.environ[name] == "15"


def test_addresses_have_no_password_and_there_are_none_without_a_server(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = Tracker(uri, "x")
    run_id = tracker.begin("t", "n")
    assert tracker.run_address(run_id) is tracker.experiment_address() is None
    tracker.log_report(run_id, make_report(), 1.0)
    # As if a server stood before that database.
    monkeypatch.setattr(tracker, "_uri", "http://me:secret@127.0.0.1:5000/")
    page = "http://127.0.0.1:5000/#/experiments/1/runs"
    assert tracker.run_address(run_id) == f"{page}/{run_id}?workflowType=machine_learning"
    shared = "workflowType=machine_learning&viewStateShareKey=autofreeze"
    assert tracker.experiment_address() == f"{page}?{shared}"
