"""The flow, in this process, on a real Prefect server and a real MLflow store."""

import asyncio
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter
from typer.testing import CliRunner

from afcore.config import load_config, parse_config
from afcore.errors import AutoFreezeError, TrackingError
from afcore.runs.identify import identify_run
from afcore.search import trial_run
from afcore.search.search_report import SearchReport
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import write_config

VARY = {"training.learning_rate": [3e-3, 1e30], "freezing.depth": [1, 2]}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_search_from_the_command_line_to_the_published_winner(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    tree = {**tiny_config, "freezing": {"policy": "static"}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"vary": VARY, "sampler": "grid", "storage": f"sqlite:///{tmp_path}/o.db"}
    path = write_config(tmp_path / "config.yaml", tree)
    report_path = tmp_path / "search.json"
    command = ["search", str(path), "--report", str(report_path), "--figures", "pictures"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "the test set was read once" in " ".join(done.output.split())
    report = SearchReport.model_validate_json(report_path.read_text())
    states = {row.values["training.learning_rate"]: row.state for row in report.trials}
    assert states == {3e-3: "finished", 1e30: "failed"}
    assert sum("diverged" in (row.why or "") for row in report.trials) == 2
    assert report.winner is not None
    assert report.winner["totals"]["test"] is not None
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 3

    winner = load_config(str(tmp_path / "config.best.yaml"))
    assert yaml.safe_load((tmp_path / "config.best.yaml").read_text())["training"]
    storage = Storage(winner.store)
    assert identify_run(winner, storage).run_id == report.winner["run_id"]
    results = [key for key in storage.list("runs") if key.endswith("/result.json")]
    assert len(results) == 1  # the winner's: no other was tested
    _check_tracked(winner.tracking.uri, report)
    _check_prefect()

    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0, again.output
    repeated = SearchReport.model_validate_json(report_path.read_text())
    assert repeated.trials == report.trials
    assert repeated.winner == report.winner


def _check_tracked(uri: str, report: SearchReport) -> None:
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if run.data.tags.get("execution_mode") == "search"]
    assert len(parents) == 1
    parent = parents[0]
    assert parent.info.status == "FINISHED"
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    trials = {r.info.run_name: r for r in children if "trial_state" in r.data.tags}
    assert {(r.data.tags["trial_state"], r.info.status) for r in trials.values()} == {
        ("finished", "FINISHED"),
        ("failed", "FAILED"),
    }
    assert len(trials) == 4
    best = trials[f"trial-{report.best:03d}"]
    assert best.data.params["freezing.depth"] in {"1", "2"}
    row = report.best_row
    assert row is not None
    assert best.data.metrics["score"] == pytest.approx(row.score)
    assert best.data.tags["run_ids"] == row.members[0].run_id
    (logged,) = client.get_metric_history(best.info.run_id, "validation/accuracy")
    assert (logged.step, logged.timestamp) == (1, int(row.epochs[0].finished * 1000))
    assert len(children) == 5  # and the winner's own
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"search.md", "search.json", "best.yaml", "figures"} <= names


def _check_prefect() -> None:
    async def read() -> list[Any]:
        named = {"name": {"any_": ["search-test: depth, learning_rate"]}}
        async with get_client() as client:
            return await client.read_artifacts(
                artifact_filter=ArtifactFilter.model_validate({"key": {"any_": ["search"]}}),
                flow_run_filter=FlowRunFilter.model_validate(named),
            )

    found = sorted(asyncio.run(read()), key=lambda one: one.created)
    assert [one.data.partition(" trials, best ")[0] for one in found[:4]] == [
        f"{number} of 4" for number in range(1, 5)
    ]
    assert all("| trial | state |" in one.data for one in found)
    assert "the test set was read once" in found[4].data


@pytest.mark.usefixtures("prefect_server")
def test_a_search_without_a_winner_has_table_report_and_reason(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise AutoFreezeError("the loss is nan.")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial_run, "launch_epoch", fails)
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["search"] = {"storage": f"sqlite:///{tmp_path}/o.db"}
    path, report_path = write_config(tmp_path / "config.yaml", tree), tmp_path / "search.json"
    for rates, message in (
        ("1e-3,3e-3", "no trial has finished, so there is none to be published. Trial 0 failed: "),
        ("1e-3,2e-3,3e-3,4e-3,5e-3,6e-3", "the first 5 trials all failed for one reason: "),
    ):
        command = ["search", str(path), "--report", str(report_path), "--sampler", "grid"]
        done = CliRunner().invoke(app, [*command, "--over", f"training.learning_rate={rates}"])
        assert done.exit_code == 2, done.output
        said = " ".join(done.output.split())
        assert f"{message}the loss is nan." in said
        assert "Search for the highest accuracy" in said
        report = SearchReport.model_validate_json(report_path.read_text())
        assert {row.why for row in report.trials} == {"the loss is nan."}
        client = mlflow.MlflowClient(tiny_config["tracking"]["uri"])
        experiment = client.get_experiment_by_name("test")
        assert experiment is not None
        parent, *_ = client.search_runs(
            [experiment.experiment_id], "tags.execution_mode = 'search'"
        )
        assert parent.info.status == "FAILED"
        names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
        assert names == {"search.md", "search.json"}


@pytest.mark.usefixtures("prefect_server")
def test_a_trial_whose_end_mlflow_refused_is_closed_by_the_same_command(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    end, refusals = Tracker.end_trial, iter([1])

    def refused_once(tracker: Tracker, run_id: str, state: str) -> None:
        if next(refusals, None):
            raise TrackingError("MLflow refused")
        end(tracker, run_id, state)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Tracker, "end_trial", refused_once)
    tree = {**tiny_config, "freezing": {"policy": "static", "depth": 1}}
    tree["training"] = {**tree["training"], "epochs": 1}
    tree["search"] = {"storage": f"sqlite:///{tmp_path}/o.db"}
    path = write_config(tmp_path / "config.yaml", tree)
    command = ["search", str(path), "--over", "training.learning_rate=1e-3,3e-3"]
    command += ["--sampler", "grid"]
    codes = [CliRunner().invoke(app, command).exit_code for _ in range(2)]
    assert codes == [1, 0]
    client = mlflow.MlflowClient(tiny_config["tracking"]["uri"])
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.execution_mode = 'trial'")
    assert [(r.info.status, r.data.tags.get("trial_state")) for r in runs] == [
        ("FINISHED", "finished")
    ] * 2
    assert all("score" in run.data.metrics for run in runs)


def test_a_space_that_cannot_be_searched_is_one_message(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cli import app

    monkeypatch.chdir(tmp_path)
    path = write_config(tmp_path / "config.yaml", tiny_config)
    for over, message in {
        "training.lerning_rate=1,2": "did you mean 'training.learning_rate'",
        "freezing.depth=0,x": "freezing.depth",
    }.items():
        done = CliRunner().invoke(app, ["search", str(path), "--over", over])
        assert done.exit_code == 2
        assert message in " ".join(done.output.split())
        assert "Traceback" not in done.output
    assert not (tmp_path / "store").exists()
    parse_config(tiny_config, source="test")
