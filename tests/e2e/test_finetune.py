"""The flow, in this process, on a real Prefect server and a real MLflow store."""

import json
import logging
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import transformers

from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.errors import AutoFreezeError
from afcore.results.report import CompareReport, RunReport
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import BUCKET
from tests.runs.test_frozen_start import NOTHING_IS_LEARNED, count_as_known

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def training_folder(storage: Storage, run_id: str) -> str:
    record = json.loads(storage.get(f"runs/{run_id}/run.json"))
    return f"runs/{run_id}/{record['training_id']}"


def finetune(config: Config, **options: Any) -> tuple[RunReport, bool]:
    from pipelines.finetune import finetune as flow

    result = flow(config, **options)
    recorded = result.pop("recorded", False)
    return RunReport.model_validate(result), recorded


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    return parse_config(tiny_config, source="test")


def test_a_cached_run_from_text_to_published_model(
    config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="afcore"):
        report, recorded = finetune(config.replace(**{"training.epochs": 4}))
    assert not recorded
    assert [epoch.epoch for epoch in report.epochs] == [1, 2, 3, 4]
    assert report.epochs[0].read_from == "tokens"
    assert report.epochs[-1].boundary_end > 0
    grew = [e for e in report.epochs[:-1] if e.boundary_end > e.boundary_start]
    assert grew
    storage = Storage(config.store)
    boundaries = {found.manifest.boundary for found in list_sets(storage)}
    assert boundaries == {e.boundary_end for e in grew}
    for epoch, after in zip(report.epochs[:-1], report.epochs[1:], strict=True):
        assert (epoch.activation_bytes_written > 0) is (epoch in grew)
        if epoch in grew:
            assert after.read_from == f"activations@{epoch.boundary_end}"
            assert after.activation_bytes_read == epoch.activation_bytes_written
            assert after.order == "global"
            assert after.tier_bytes == {"host memory": epoch.activation_bytes_written}
            # Of what was just written, only the index and the manifest are read back.
            assert after.store_bytes_read < after.activation_bytes_read / 4
    assert "decision at step" in caplog.text
    assert f"read from {report.epochs[-1].read_from}" in caplog.text
    assert report.totals.wall_seconds >= report.totals.train_seconds
    assert report.totals.cost_usd > 0
    assert report.totals.test is not None
    assert report.data.test_examples > 10
    _check_tracked(config, report)


def _check_tracked(config: Config, report: RunReport) -> None:
    client = mlflow.MlflowClient(config.tracking.uri)
    run = client.get_run(report.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["execution_mode"] == report.mode
    assert run.data.params["training.learning_rate"] == "0.001"
    assert run.data.metrics["test/accuracy"] == report.totals.test["accuracy"]
    steps = client.get_metric_history(run.info.run_id, "train/loss")
    assert [m.step for m in steps] == list(range(1, len(steps) + 1))
    assert {a.path for a in client.list_artifacts(run.info.run_id, "figures")} == {
        "figures/freezing.png",
        "figures/epoch_time.png",
        "figures/confusion.png",
    }
    assert report.test_classes is not None
    assert report.test_classes.figure == "figures/confusion.png"
    assert sum(one.support for one in report.test_classes.classes) == report.data.test_examples
    mean = np.mean([one.f1 for one in report.test_classes.classes])
    assert report.totals.test["f1_macro"] == pytest.approx(mean, abs=1e-6)
    # The scores of the split, not a metric for each class.
    tested = {name for name in run.data.metrics if name.startswith("test/")}
    assert tested == {"test/accuracy", "test/f1_macro", "test/matthews", "test/loss"}
    logged = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.json"))
    assert RunReport.model_validate(logged) == report
    mlflow.set_tracking_uri(config.tracking.uri)
    uri = run.data.tags["autofreeze.model_uri"]
    pipeline = mlflow.transformers.load_model(uri)
    assert pipeline("Return a random float.")[0]["label"] in ("argparse", "random", "statistics")
    folder = Path(mlflow.artifacts.download_artifacts(uri))
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.id2label[1] == "random"


def test_it_reads_from_the_first_epoch_and_stops_when_it_has_settled(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default policy, of which the rest is in tests/runs."""
    count_as_known(monkeypatch)
    frozen = config.model_dump() | {"freezing": {"policy": "frozen_start", "depth": 3}}
    settled = parse_config(frozen, source="test").replace(**NOTHING_IS_LEARNED)
    report, _ = finetune(settled)
    assert [epoch.read_from for epoch in report.epochs] == ["activations@3"] * 4
    assert [epoch.candidate for epoch in report.epochs] == [False, False, False, True]
    assert report.totals.best_epoch == 4
    assert report.totals.decide_seconds == 0.0  # cache.mode: on measures nothing
    assert report.happened.startswith("blocks 0-2 of 4 were frozen from the start")
    assert "stopped after epoch 4 of 6" in report.happened
    # The head was solved: better than the classes' shares although no step changed a thing.
    assert report.epochs[0].train_loss < report.intervals[0].chance_loss
    assert report.totals.test_rows is not None


def test_a_finished_run_returns_its_result_unless_fresh(config: Config) -> None:
    config = config.replace(**{"training.epochs": 2})
    first, _ = finetune(config)
    again, recorded = finetune(config)
    assert recorded
    assert again == first
    fresh, recorded = finetune(config, fresh=True)
    assert not recorded
    assert fresh.mlflow_run_id != first.mlflow_run_id
    assert fresh.decisions == first.decisions
    assert fresh.totals.test == first.totals.test
    assert fresh.epochs[0].attempt == 2
    assert not any(epoch.resumed for epoch in fresh.epochs)


def test_a_task_that_raises_is_retried_and_reads_what_was_cached(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afcore.runs import epoch as epoch_module
    from pipelines import finetune as finetune_module

    _, unbroken = complete_run(config)
    read_from = []
    real = epoch_module.train_epoch

    def failing(*args: Any, **kwargs: Any) -> Any:
        epoch, feed = args[3].epoch, kwargs["feed"]
        read_from.append((epoch, feed.boundary if feed is not None else 0))
        done = real(*args, **kwargs)
        if epoch == 3 and len([e for e, _ in read_from if e == 3]) == 1:
            raise ConnectionError("a passing fault")
        return done

    monkeypatch.setattr(epoch_module, "train_epoch", failing)
    task = finetune_module.train_epoch.with_options(retry_delay_seconds=0)
    monkeypatch.setattr(finetune_module, "train_epoch", task)
    report, _ = finetune(config.replace(**{"store": f"{config.store}-2"}))
    third = [boundary for epoch, boundary in read_from if epoch == 3]
    assert len(third) == 2
    assert third[0] == third[1] > 0
    assert report.epochs[2].resumed
    assert report.decisions == unbroken.decisions
    assert report.totals.test == unbroken.totals.test


def test_a_process_that_lost_its_lease_commits_nothing_more(config: Config) -> None:
    from afcore.runs.epoch import run_epoch
    from afcore.runs.identify import identify_run
    from afcore.runs.run import begin_run, run_folder, run_lease

    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage))
    with run_lease(storage, run.record.run_id) as lease:
        number = lease.number
        folder = f"{run_folder(run.record.run_id)}/lease"
        mine = storage.get(f"{folder}/{number:06d}.json")
        storage.put(f"{folder}/{number + 1:06d}.json", mine)
        with pytest.raises(AutoFreezeError, match="taken over by another process"):
            run_epoch(run, 1, number)
    assert not storage.exists(run.epoch_key(1, "checkpoint"))


@pytest.mark.s3
def test_the_store_may_be_s3(config: Config, s3_endpoint: str) -> None:
    assert s3_endpoint
    report, _ = finetune(config.replace(store=f"s3://{BUCKET}/finetune"))
    _, local = complete_run(config)
    assert report.decisions == local.decisions
    assert report.totals.test == local.totals.test
    assert report.totals.activation_bytes_written > 0
    storage = Storage(f"s3://{BUCKET}/finetune")
    assert all(found.verify() == [] for found in list_sets(storage))
    assert storage.exists(f"{training_folder(storage, report.run_id)}/result.json")


def test_compare_puts_modes_and_seeds_side_by_side(config: Config) -> None:
    from pipelines.compare import compare

    result = compare(config, modes=["full", "cached"], seeds=2)
    assert result.pop("recorded") == [False] * 4
    comparison = CompareReport.model_validate(result)
    assert [(run.mode, run.seed) for run in comparison.runs] == [
        ("full", 0),
        ("cached", 0),
        ("full", 1),
        ("cached", 1),
    ]
    assert comparison.speedup["full"] == 1.0
    cached = [run for run in comparison.runs if run.mode == "cached"]
    assert all(run.totals.activation_bytes_written > 0 for run in cached)
    client = mlflow.MlflowClient(config.tracking.uri)
    child = client.get_run(cached[0].mlflow_run_id)
    parent = client.get_run(child.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics["cached/speedup"] == comparison.speedup["cached"]
    difference = comparison.difference["cached"]
    assert difference.num_seeds == 2
    assert parent.data.metrics["cached/accuracy_difference_low"] == difference.low
    names = {a.path for a in client.list_artifacts(parent.info.run_id)}
    assert {"comparison.md", "comparison.json", "figures"} <= names
    children = client.search_runs(
        parent.info.experiment_id and [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'",
    )
    assert len(children) == 4
    again = compare(config, modes=["full", "cached"], seeds=2)
    assert again["recorded"] == [True] * 4
    assert (
        CompareReport.model_validate({k: v for k, v in again.items() if k != "recorded"})
        == comparison
    )


def test_the_hf_trainer_is_a_run_like_any_other(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config.replace(mode="hf_trainer_grouped")
    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "log_model", _end)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    report, recorded = finetune(config)
    assert not recorded
    assert report.mode == "hf_trainer_grouped"
    assert [epoch.attempt for epoch in report.epochs] == [2, 2, 2]
    assert 0 < report.totals.lost_seconds < report.totals.wall_seconds
    assert report.totals.cost_usd > sum(epoch.cost_usd for epoch in report.epochs) > 0
    assert report.data.test_examples > 10
    assert finetune(config) == (report, True)
    client = mlflow.MlflowClient(config.tracking.uri)
    run = client.get_run(report.mlflow_run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["execution_mode"] == "hf_trainer_grouped"
    assert run.data.metrics["test/accuracy"] == report.totals.test["accuracy"]
    history = client.get_metric_history(run.info.run_id, "epoch/train_seconds")
    assert [m.value for m in history] == [epoch.train_seconds for epoch in report.epochs]
    mlflow.set_tracking_uri(config.tracking.uri)
    assert mlflow.transformers.load_model(run.data.tags["autofreeze.model_uri"])("Return a float.")


def _end(*_: Any) -> None:
    raise KeyboardInterrupt
