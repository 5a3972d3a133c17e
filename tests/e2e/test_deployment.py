"""The deployment for real: a server, a work pool, a worker, a schedule, and the store on S3."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from prefect.testing.cli import CycloptsCliRunner

from afcore.results.report import RunReport
from afcore.storage.objects import Storage
from tests.conftest import BUCKET
from tests.prefect_rest import prefect_answer, prefect_response

pytestmark = [pytest.mark.slow, pytest.mark.s3]

CHECKOUT = Path(__file__).parents[2]
DEPLOYMENT = "finetune/nightly"
RETRAINING = "retrain/nightly"


@pytest.fixture(scope="module")
def deployed(prefect_server: str) -> dict[str, Any]:
    """The deployment, made by the commands that docs/operations.md gives."""
    prefect("work-pool", "create", "autofreeze", "--type", "process")
    deploy_all()
    return deployment(prefect_server, DEPLOYMENT)


def deployment(server: str, name: str) -> dict[str, Any]:
    return dict(prefect_answer("GET", f"{server}/deployments/name/{name}"))


@pytest.fixture
def worker_folder(tmp_path: Path, tiny_bert: Path, text_files: dict[str, Path]) -> Path:
    """What relative paths in the parameters refer to."""
    folder = tmp_path / "worker"
    shutil.copytree(tiny_bert, folder / "model")
    shutil.copy(text_files["train"], folder / "rows.csv")
    return folder


@pytest.fixture
def worker_log(
    deployed: dict[str, Any], s3_endpoint: str, worker_folder: Path, tmp_path: Path
) -> Iterator[Path]:
    """A worker is at work in its folder."""
    log = tmp_path / "worker.log"
    with log.open("wb") as stream:
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "autofreeze"],
            cwd=worker_folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        yield log
    finally:
        # Before its server ends, without which it may not answer.
        stop(worker)


@pytest.mark.usefixtures("deployed")
def test_a_worker_retrains_with_the_store_on_s3_and_one_value_changed(
    prefect_server: str, worker_log: Path, worker_folder: Path
) -> None:
    config = {
        "mode": "cached",
        "model": {"name": "./model"},
        "data": {"train": "rows.csv", "max_length": 32},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": "2e-4", "weight_decay": "1e-2"},
        "freezing": {"policy": "static", "depth": 1},
        "cache": {"mode": "on"},
        "store": f"s3://{BUCKET}/deployment",
        "tracking": {"uri": "sqlite:///mlflow.db", "experiment": "deployment"},
    }

    parameters = ["--param", f"config={json.dumps(config)}"]
    parameters += ["--param", 'overrides=["training.learning_rate=5e-4"]']
    try:
        prefect("deployment", "run", RETRAINING, *parameters, "--watch", "--watch-timeout", "280")
    except AssertionError as error:
        pytest.fail(f"{error}\nThe worker's log ends with:\n{tail(worker_log)}")

    storage = Storage(f"s3://{BUCKET}/deployment")
    (result,) = [key for key in storage.list("runs") if key.endswith("/result.json")]
    report = RunReport.model_validate_json(storage.get(result))
    assert [epoch.read_from for epoch in report.epochs] == ["activations@1", "activations@1"]
    manifests = [key for key in storage.list("activations") if key.endswith("/manifest.json")]
    assert len(manifests) == 1
    client = mlflow.MlflowClient(f"sqlite:///{worker_folder}/mlflow.db")
    tracked = client.get_run(report.mlflow_run_id)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["training.learning_rate"] == "0.0005"
    assert tracked.data.params["training.weight_decay"] == "0.01"  # a text, as PyYAML reads 1e-2
    (version,) = client.search_model_versions("name = 'deployment'")
    assert version.run_id == report.mlflow_run_id
    (run,) = flow_runs(prefect_server, deployment(prefect_server, RETRAINING), "COMPLETED")
    logs = prefect_answer(
        "POST", f"{prefect_server}/logs/filter", logs={"flow_run_id": {"any_": [run["id"]]}}
    )
    said = [line["message"] for line in logs if line["name"].startswith("afcore.")]
    assert any("without data.test there is nothing to compare" in line for line in said)


def test_a_schedule_that_is_switched_on_yields_runs(
    prefect_server: str, deployed: dict[str, Any]
) -> None:
    """With SQLAlchemy 2.1 the scheduler fails, though all else works: no run would ever come."""
    (schedule,) = deployed["schedules"]
    assert schedule["active"] is False
    assert flow_runs(prefect_server, deployed, "SCHEDULED") == []
    assert schedule["id"] in prefect("deployment", "schedule", "ls", DEPLOYMENT)

    prefect("deployment", "schedule", "resume", DEPLOYMENT, schedule["id"])
    try:
        deadline = time.monotonic() + 150  # the scheduler looks once a minute
        while not (runs := flow_runs(prefect_server, deployed, "SCHEDULED")):
            assert time.monotonic() < deadline, "the scheduler has made no runs"
            time.sleep(0.5)
        assert {run["expected_start_time"][10:19] for run in runs} == {"T02:00:00"}
    finally:
        prefect("deployment", "schedule", "pause", DEPLOYMENT, schedule["id"])


@pytest.mark.parametrize("kind", ["flow-run", "deployment", "work-pool", "artifact"])
@pytest.mark.usefixtures("deployed")
def test_prefect_lists(kind: str) -> None:
    """With FastAPI 0.152 these end with status 422: the null fields of the requests' bodies."""
    shown = {"deployment": DEPLOYMENT, "work-pool": "autofreeze"}
    assert shown.get(kind, "") in prefect(kind, "ls")


def test_parameters_are_typed_and_described(deployed: dict[str, Any]) -> None:
    schema = deployed["parameter_openapi_schema"]
    assert schema["required"] == ["config"]
    assert schema["properties"]["config"]["description"]
    assert schema["properties"]["fresh"]["type"] == "boolean"
    assert schema["properties"]["fresh"]["description"]
    epochs = schema["definitions"]["TrainingConfig"]["properties"]["epochs"]
    number, text = epochs["anyOf"]
    assert (number, text["type"]) == ({"exclusiveMinimum": 0, "type": "number"}, "string")
    assert epochs["description"]


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("name", [DEPLOYMENT, RETRAINING, "compare/by-hand", "maintain/weekly"])
def test_every_deployment_has_described_parameters_and_a_schedule_that_is_off(
    prefect_server: str, name: str
) -> None:
    found = deployment(prefect_server, name)
    properties = found["parameter_openapi_schema"]["properties"]
    assert all(one["description"] for one in properties.values())
    assert found["description"]
    assert found["global_concurrency_limit"]["limit"] == 1
    assert {schedule["schedule"]["timezone"] for schedule in found["schedules"]} <= {"UTC"}
    assert not any(schedule["active"] for schedule in found["schedules"])
    if "config" in properties:
        assert properties["overrides"]["anyOf"][0]["items"] == {"type": "string"}


def test_parameters_that_are_not_allowed_are_refused(
    prefect_server: str, deployed: dict[str, Any]
) -> None:
    config = {**deployed["parameters"]["config"], "training": {"epochs": 0}}
    url = f"{prefect_server}/deployments/{deployed['id']}/create_flow_run"
    answer = prefect_response("POST", url, {"parameters": {"config": config}})
    assert answer.status_code == 409
    assert "epochs" in answer.text


def prefect(*arguments: str) -> str:
    """Run ``prefect ARGUMENTS`` in this process, which has imported everything; what it printed."""
    done = CycloptsCliRunner().invoke(list(arguments))
    command = " ".join(["prefect", *arguments])
    assert done.exit_code == 0, f"{command}: status {done.exit_code}\n{done.output}"
    return done.output


def deploy_all() -> None:
    """In a process of its own, as it imports flows from their files."""
    command = ["deploy", "--all", "--prefect-file", "pipelines/configs/prefect.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *command],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def flow_runs(server: str, deployment: dict[str, Any], state: str) -> list[dict[str, Any]]:
    """Runs of the deployment in a state."""
    found: list[dict[str, Any]] = prefect_answer(
        "POST",
        f"{server}/flow_runs/filter",
        deployments={"id": {"any_": [deployment["id"]]}},
        flow_runs={"state": {"type": {"any_": [state]}}},
    )
    return found


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Ask, wait, then kill it and what it had started."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in family:
        if child.is_running():
            child.kill()


def tail(log: Path, lines: int = 60) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
