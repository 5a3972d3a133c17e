"""The flow, in this process, on a real Prefect server and a real MLflow store."""

import asyncio
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from prefect.client.orchestration import get_client
from typer.testing import CliRunner

from afcore.config import load_config, parse_config
from afcore.runs.identify import identify_run
from afcore.search.search_report import SearchReport
from afcore.storage.objects import Storage
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
    assert best.data.metrics["score"] == pytest.approx(report.best_row.score)  # type: ignore[union-attr]
    assert len(children) == 5  # and the winner's own
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"search.md", "search.json", "best.yaml", "figures"} <= names


def _check_prefect() -> None:
    async def read() -> list[str]:
        async with get_client() as client:
            return [run.name for run in await client.read_flow_runs()]

    assert "search-test: depth, learning_rate" in asyncio.run(read())


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
