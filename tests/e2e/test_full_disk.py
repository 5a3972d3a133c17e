"""A real disk that is full where MLflow keeps what is published, or where a user wants it."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import write_config
from tests.e2e.command import autofreeze, expect_one_message
from tests.small_disk import SmallDisk, small_disk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", megabytes=16) as mounted:
        yield mounted


def scores(report: Path) -> Any:
    tree = json.loads(report.read_text())
    return [tree["run_id"], tree["totals"]["test"], [e["validation"] for e in tree["epochs"]]]


@pytest.mark.parametrize(
    ("place", "leave_bytes"),
    [
        ("artifacts", 20_000),
        pytest.param("artifacts", 0, marks=pytest.mark.faults),
        pytest.param("temporary files", 20_000, marks=pytest.mark.faults),
        pytest.param("temporary files", 0, marks=pytest.mark.faults),
    ],
)
def test_what_mlflow_keeps_does_not_fit(
    place: str,
    leave_bytes: int,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its database, with the artifacts beside it, or the files that are made for them."""
    from pipelines import finetune

    tiny_config["training"] |= {"epochs": 1}
    if place == "artifacts":
        shutil.move(tmp_path / "mlflow.db", disk.path)
        tiny_config["tracking"]["uri"] = f"sqlite:///{disk.path}/mlflow.db"
    uri = tiny_config["tracking"]["uri"]
    config, report = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "r.json"
    publish_run = finetune.publish_run

    def full(*args: Any) -> Any:
        disk.fill(leave_bytes)
        if place == "temporary files":
            monkeypatch.setattr(tempfile, "tempdir", str(disk.path))
        return publish_run(*args)

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "publish_run", full)
        assert autofreeze("run", config, "--report", report) == 1
        monkeypatch.setattr(tempfile, "tempdir", None)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err
    (error,) = (line for line in err.splitlines() if line.startswith("Error:"))
    assert "no space left" in error
    assert f"on the disk at {disk.path}" in error
    assert "the same command goes on from there" in error
    assert not report.exists()
    assert not list(Path(tiny_config["store"]).glob("runs/*/*/result.json")), "half is not whole"

    disk.make_room()
    assert autofreeze("run", config, "--report", report) == 0
    tree = json.loads(report.read_text())
    assert [epoch["attempt"] for epoch in tree["epochs"]] == [1], "nothing was trained twice"
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    assert run.info.status == "FINISHED"
    mlflow.set_tracking_uri(uri)
    pipeline = mlflow.transformers.load_model(run.data.tags["autofreeze.model_uri"])
    assert pipeline("Return a random number.")[0]["label"]
    if leave_bytes:
        return
    undisturbed = tmp_path / "undisturbed.json"
    again = ["--set", f"store={tmp_path}/other", "--report", undisturbed, "--fresh"]
    assert autofreeze("run", config, *again) == 0
    assert scores(report) == scores(undisturbed)


@pytest.mark.faults
def test_what_a_user_asks_for_does_not_fit(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    disk: SmallDisk,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The model's folder, or the report: what was there before stays; the run is done."""
    from pipelines import finetune

    tiny_config["training"] |= {"epochs": 1}
    config, model, report = (
        write_config(tmp_path / "c.yaml", tiny_config),
        disk.path / "model",
        disk.path / "report.json",
    )
    report.write_text("what was there before")
    publish_run = finetune.publish_run

    def full(*args: Any) -> Any:
        published = publish_run(*args)
        disk.fill()
        return published

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "publish_run", full)
        assert autofreeze("run", config, "--output", model) == 1
    expect_one_message(capfd, f"--output {model}: no space left: of 16.8 MB on the disk at")
    assert autofreeze("run", config, "--report", report) == 1
    expect_one_message(capfd, f"--report {report}: no space left")
    assert report.read_text() == "what was there before"
    assert {path.name for path in disk.path.iterdir()} == {"report.json", "others"}

    disk.make_room()
    assert autofreeze("run", config, "--output", model, "--report", report) == 0
    assert [e["attempt"] for e in json.loads(report.read_text())["epochs"]] == [1]
    assert (model / "model.safetensors").exists()
