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

from afcore.outage import OUTAGE_VARIABLE
from tests.conftest import environment, free_port, write_config
from tests.e2e.command import autofreeze, expect_one_message
from tests.faulty_proxy import faulty_proxy

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


def test_training_goes_on_and_nothing_is_lost(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is away in epoch 1, answers after epoch 2, and dies before epoch 3 ends."""
    from pipelines import finetune

    database = tiny_config["tracking"]["uri"]
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")  # no need to wait for it here
    monkeypatch.setenv(OUTAGE_VARIABLE, "2")
    train, reached = finetune.launch_epoch, list[list[int]]()
    with (
        mlflow_server(database, tmp_path) as (uri, group),
        faulty_proxy(uri, 0.0, seed=0) as proxy,
        monkeypatch.context() as patched,
    ):

        def outlive(run: Any, epoch: int, *args: Any, **kwargs: Any) -> Any:
            record = train(run, epoch, *args, **kwargs)
            proxy.share = {1: 1.0, 2: 0.0}.get(epoch, 0.0)
            if epoch == 2:
                capfd.readouterr()
            if epoch == 3:
                client = mlflow.MlflowClient(database)
                (one,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
                history = client.get_metric_history(one.info.run_id, "epoch/train_seconds")
                reached.append([metric.step for metric in history])
                os.killpg(group, signal.SIGKILL)
            return record

        patched.setattr(finetune, "launch_epoch", outlive)
        tiny_config["tracking"]["uri"] = proxy.url
        config = write_config(tmp_path / "c.yaml", tiny_config)
        assert autofreeze("run", config) == 1
        assert reached == [[1, 2]]
        said = [r.message for r in caplog.records if r.name.endswith("tracked_epochs")]
        assert len(said) == 3, said
        assert said[0].endswith(". Training goes on; MLflow gets what it lacks later")
        assert said[1] == "MLflow answers again: epochs 1, 2 are logged"
        start = f"MLflow at tracking.uri '{proxy.url}' does not answer"
        expect_one_message(capfd, start)
        assert autofreeze("run", config) == 2
        expect_one_message(capfd, "See that it runs; what is committed stands")

    report = tmp_path / "report.json"
    again = ["--set", f"tracking.uri={database}", "--report", report]  # the same one, without it
    assert autofreeze("run", config, *again) == 0
    tree = json.loads(report.read_text())
    assert [epoch["attempt"] for epoch in tree["epochs"]] == [1, 1, 1]
    client = mlflow.MlflowClient(database)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert (run.info.run_id, run.info.status) == (tree["mlflow_run_id"], "FINISHED")
    for name, least in (("train/loss", 4), ("epoch/train_seconds", 3)):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) >= least
    assert autofreeze("run", config) == 0, "what is finished needs no MLflow"
