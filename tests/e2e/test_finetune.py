"""The flow, in this process, on a real Prefect server and a real MLflow store."""

import json
import logging
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import transformers

from afcore.activations.sets import list_sets
from afcore.activations.validation_states import ValidationStates
from afcore.config import Config, parse_config
from afcore.errors import AutoFreezeError
from afcore.results.report import CompareReport, RunReport
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import BUCKET

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


def test_modes_read_and_write_as_they_should(config: Config) -> None:
    by_mode = {mode: finetune(config.replace(mode=mode))[0] for mode in ("full", "freeze")}
    assert list_sets(Storage(config.store)) == []
    for report in by_mode.values():
        assert {epoch.read_from for epoch in report.epochs} == {"tokens"}
    assert by_mode["full"].decisions == []
    assert {e.boundary_end for e in by_mode["full"].epochs} == {0}
    assert by_mode["freeze"].epochs[-1].boundary_end > 0
    off, _ = finetune(config.replace(**{"cache.mode": "off"}))
    assert list_sets(Storage(config.store)) == []
    assert off.decisions == by_mode["freeze"].decisions


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("bf16", 5e-2)])
def test_caching_changes_what_is_computed_but_not_what_is_learnt(
    config: Config, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, put = [], ValidationStates.put

    def note(held: ValidationStates, number: int, hidden: torch.Tensor) -> None:
        evaluated.append(number)
        put(held, number, hidden)

    monkeypatch.setattr(ValidationStates, "put", note)
    static = {
        "freezing.policy": "static",
        "freezing.depth": 2,
        "cache.dtype": dtype,
        "training.epochs": 2,
    }
    freeze, _ = finetune(config.replace(mode="freeze", **static))
    cached, _ = finetune(config.replace(**static))
    assert {e.read_from for e in freeze.epochs} == {"tokens"}
    assert {e.read_from for e in cached.epochs} == {"activations@2"}
    losses = [[epoch.train_loss for epoch in run.epochs] for run in (freeze, cached)]
    np.testing.assert_allclose(losses[1], losses[0], atol=tolerance)
    scored = [[epoch.validation["loss"] for epoch in run.epochs] for run in (freeze, cached)]
    np.testing.assert_allclose(scored[1], scored[0], atol=tolerance)
    assert evaluated, "what the prefix puts out for the validation split is held"
    assert len(evaluated) == len(set(evaluated)), "and computed in the first of two epochs alone"


def test_runs_with_the_same_prefix_share_its_set(config: Config) -> None:
    static = {"freezing.policy": "static", "training.epochs": 2}
    first, _ = finetune(config.replace(**static))
    other, _ = finetune(config.replace(**static | {"training.learning_rate": 5e-4}))
    assert first.totals.activation_bytes_written > 0
    assert other.totals.activation_bytes_written == 0
    assert {e.read_from for e in other.epochs} == {"activations@2"}
    alone, _ = finetune(config.replace(**static | {"cache.share": False}))
    assert alone.totals.activation_bytes_written == first.totals.activation_bytes_written
    assert alone.notes == []


def test_what_the_limit_kept_from_being_written_is_in_the_notes(config: Config) -> None:
    report, _ = finetune(config.replace(**{"cache.max_bytes": 1000}))
    assert report.totals.activation_bytes_written == 0
    assert {epoch.read_from for epoch in report.epochs} == {"tokens"}
    grown = {e.boundary_end for e in report.epochs[:-1] if e.boundary_end}
    assert grown
    assert [note.partition(" not written: ")[0] for note in report.notes] == [
        f"activations@{boundary}" for boundary in sorted(grown)
    ]


def test_a_linear_schedule_freezes_on_time(config: Config) -> None:
    report, _ = finetune(config.replace(**{"freezing.policy": "linear", "freezing.depth": 3}))
    after = [decision.boundary_after for decision in report.decisions]
    assert after == [0, 0, 1, 1, 1, 2, 2, 2, 3]


def test_checkpoints_but_the_last_and_the_best_are_collected(config: Config) -> None:
    report, _ = finetune(config.replace(mode="full", **{"training.epochs": 4}))
    storage = Storage(config.store)
    folder = training_folder(storage, report.run_id)
    named = set()
    for epoch in {report.totals.best_epoch, 4}:
        record = json.loads(storage.get(f"{folder}/epochs/{epoch:03d}/checkpoint.json"))
        named |= {f"{folder}/parts/{digest}.safetensors" for digest in record["parts"].values()}
    assert set(storage.list(f"{folder}/parts")) == named


def test_a_task_that_raises_is_retried_and_reads_what_was_cached(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afcore.runs import epoch as epoch_module
    from pipelines import finetune as finetune_module

    unbroken, _ = finetune(config)
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


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("shards", "computing it again"),
        ("index", "building the set again"),
        ("manifest.json", "building the set again"),
    ],
)
def test_a_damaged_set_does_not_fail_the_run(
    config: Config, caplog: pytest.LogCaptureFixture, part: str, message: str
) -> None:
    static = {"freezing.policy": "static", "training.epochs": 2}
    whole, _ = finetune(config.replace(**static))
    storage = Storage(config.store)
    keys = [key for key in storage.list("activations") if key.endswith(("c/0/0", "manifest.json"))]
    storage.put(next(key for key in keys if part in key), b"torn")
    again, _ = finetune(config.replace(**static), fresh=True)
    assert message in caplog.text
    assert again.totals.test == whole.totals.test
    assert [found.verify() for found in list_sets(storage)] == [[]]


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
    local, _ = finetune(config)
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
