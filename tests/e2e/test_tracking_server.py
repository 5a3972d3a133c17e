"""A real MLflow server that dies in the middle of a run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pytest

from tests.conftest import environment, free_port, write_config
from tests.e2e.test_cli import _expect_one_message, autofreeze

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@contextlib.contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[tuple[str, int]]:
    """Its address and the id of its process group."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    options = ["--workers", "1", "--backend-store-uri", database, "--no-serve-artifacts"]
    log = folder / "server.log"
    with log.open("wb") as stream, environment({"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}):
        server = subprocess.Popen(
            [*command, *options, "--default-artifact-root", str(folder / "artifacts")],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", server.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_it_is_said_in_one_message_and_the_same_command_goes_on(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from pipelines import finetune

    database = tiny_config["tracking"]["uri"]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # no need to wait for it here
    train = finetune.launch_epoch
    with mlflow_server(database, tmp_path) as (uri, group), monkeypatch.context() as patched:

        def outlive(run: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            record = train(run, epoch, *args, **kwargs)
            if epoch == 2:
                os.killpg(group, signal.SIGKILL)
            return record

        patched.setattr(finetune, "launch_epoch", outlive)
        tiny_config["tracking"]["uri"] = uri
        config = write_config(tmp_path / "c.yaml", tiny_config)
        assert autofreeze("run", config) == 1
    _expect_one_message(
        capfd,
        f"MLflow at tracking.uri '{uri}' does not answer (Connection refused). See that "
        "it runs; epoch 2 is committed, and the same command goes on from there.",
    )
    assert autofreeze("run", config) == 1
    _expect_one_message(capfd, "See that it runs; what is committed stands")

    report = tmp_path / "report.json"
    again = ["--set", f"tracking.uri={database}", "--report", report]  # the same one, without it
    assert autofreeze("run", config, *again) == 0
    tree = json.loads(report.read_text())
    assert [epoch["attempt"] for epoch in tree["epochs"]] == [1, 1, 2]
    client = mlflow.MlflowClient(database)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert (run.info.run_id, run.info.status) == (tree["mlflow_run_id"], "FINISHED")
    for name, least in (("train/loss", 4), ("epoch/train_seconds", 3)):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= least
    assert autofreeze("run", config) == 0, "what is finished needs no MLflow"
