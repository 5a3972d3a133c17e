"""What a stack is started with; the whole of it with real servers in a test of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
import yaml

from afcore.errors import UserError
from afcore.processes import KnownProcess
from afcore.storage.objects import Storage
from pipelines.stack.local_stack import LocalStack
from pipelines.stack.stack_services import StackSettings, stack_services
from tests.conftest import environment, free_port
from tests.prefect_rest import prefect_answer


def test_everything_listens_on_loopback(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {"s3": "moto"})
    services = stack_services(stack.settings, tmp_path, stack.services_folder)
    assert [one.name for one in services] == ["prefect", "mlflow", "s3", "worker"]
    for one in services[:3]:
        at = one.command.index("--host")
        assert one.command[at + 1] == "127.0.0.1"
        assert one.address == f"http://127.0.0.1:{one.port}"


def test_settings_are_those_of_the_last_start_unless_given(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {"s3": "moto", "prefect_port": 4444})
    assert stack.store == "s3://autofreeze/store"
    assert stack.is_volatile
    stack.services_folder.make()
    (tmp_path / "stack" / "settings.json").write_text(stack.settings.model_dump_json())
    assert LocalStack(tmp_path).settings == stack.settings
    folder = LocalStack(tmp_path, {"s3": "folder", "prefect_port": None})
    assert folder.settings == StackSettings(prefect_port=4444)
    assert folder.store == str(tmp_path / "store")
    assert not folder.is_volatile


def test_a_stack_that_runs_is_not_started_with_other_settings(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {})
    stack.services_folder.make()
    (tmp_path / "stack" / "settings.json").write_text(stack.settings.model_dump_json())
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        known = asdict(KnownProcess.of(psutil.Process(sleeper.pid)))
        (tmp_path / "stack" / "processes.json").write_text(json.dumps({"prefect": known}))
        assert LocalStack(tmp_path, {"mlflow_port": 5000}).settings == stack.settings
        with pytest.raises(UserError, match=r"mlflow_port 5000, .* than .* mlflow_port 5001, "):
            LocalStack(tmp_path, {"mlflow_port": 5001})
    finally:
        sleeper.kill()
        sleeper.wait()


def test_ports_are_tried_before_anything_is_started_or_remembered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        stack = LocalStack(tmp_path, {"prefect_port": free_port(), "mlflow_port": taken})
        with pytest.raises(UserError, match=f"port {taken}, for mlflow, is taken"):
            stack.up(lambda _: None)
    assert [one.state for one in stack.states()] == ["stopped"] * 3
    # What the message advises is taken.
    assert LocalStack(tmp_path, {"mlflow_port": taken + 1}).settings.mlflow_port == taken + 1
    assert LocalStack(tmp_path).settings == StackSettings()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prefect_port": 5000}, "port 5000 is given twice"),
        ({"s3": "moto", "s3_port": 4200}, "port 4200 is given twice"),
        ({"s3": "http://me:secret@127.0.0.1:9000"}, r"^--s3: a password in a URI would be logged"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as refused:
        LocalStack(tmp_path, settings)
    assert "secret" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_who_looks_makes_no_folder_and_who_starts_says_why_there_is_none(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path / "new")
    assert {one.state for one in stack.states()} == {"stopped"}
    assert not stack.down(lambda _: None)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    stack = LocalStack(tmp_path / "file")
    assert {one.state for one in stack.states()} == {"stopped"}
    assert not stack.down(lambda _: None)
    with pytest.raises(UserError, match=r"the stack's folder .*/file/stack cannot be made"):
        stack.up(lambda _: None)


def test_a_port_that_cannot_be_is_not_remembered(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    stack.services_folder.make()
    (tmp_path / "stack" / "settings.json").write_text('{"prefect_port": 70000}')
    assert LocalStack(tmp_path).settings == StackSettings()


def test_all_deployments_are_on_the_stack(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {"mlflow_port": 5555})
    parameters = [one["parameters"] for one in stack._deployments()["deployments"]]
    configs = [one["config"] for one in parameters if "config" in one]
    stores = [one["store"] for one in [*configs, *parameters] if "store" in one]
    assert len(configs) >= 3
    assert set(stores) == {str(tmp_path / "store")}
    assert {one["tracking"]["uri"] for one in configs} == {"http://127.0.0.1:5555"}
    assert all(one["tracking"]["experiment"] for one in configs)


@pytest.mark.faults
def test_a_stack_outlives_its_command_and_a_power_cut(
    tmp_path: Path, tiny_bert: Path, text_files: dict[str, Path]
) -> None:
    """From nothing to a run, all processes killed, and what the run left is there again."""
    folder, ports = tmp_path / "night", {"prefect": free_port(), "mlflow": free_port()}
    tree = {
        "model": {"name": str(tiny_bert)},
        "data": {"train": str(text_files["train"]), "max_length": 32},
        "training": {"epochs": 1, "batch_size": 8},
        "store": str(folder / "store"),
        "tracking": {"uri": f"http://127.0.0.1:{ports['mlflow']}", "experiment": "night"},
    }
    api = f"http://127.0.0.1:{ports['prefect']}/api"
    with environment({"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": api}):
        up = ["up", "--folder", str(folder)]
        try:
            stack(*up, *(word for n, p in ports.items() for word in (f"--{n}-port", str(p))))
            assert "prefect: runs already" in stack(*up)
            command = ["deployment", "run", "finetune/nightly", "--watch"]
            command += ["--param", f"config={json.dumps(tree)}"]
            subprocess.run([sys.executable, "-m", "prefect", *command], check=True, timeout=300)
            known = json.loads((folder / "stack" / "processes.json").read_text())
            assert set(known) == {"prefect", "mlflow", "worker"}
            for one in known.values():
                os.killpg(int(one["pid"]), signal.SIGKILL)
            assert "prefect: started" in stack(*up)
            runs = prefect_answer("POST", f"{api}/flow_runs/filter")
            assert [run["state"]["type"] for run in runs] == ["COMPLETED"]
            client = mlflow.MlflowClient(tree["tracking"]["uri"])
            experiment = client.get_experiment_by_name("night")
            (run,) = client.search_runs([experiment.experiment_id])
            assert run.info.status == "FINISHED"
            assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/report.json")
            deployed = yaml.safe_load((folder / "stack" / "prefect.yaml").read_text())
            assert deployed["deployments"][0]["parameters"]["config"]["store"] == tree["store"]
        finally:
            stack("down", "--folder", str(folder))


def stack(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from pipelines.cli import main; main()", "stack", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.s3
def test_a_bucket_is_made_once_on_a_server_that_is_given(s3_endpoint: str, tmp_path: Path) -> None:
    stack, said = LocalStack(tmp_path, {"s3": s3_endpoint}), list[str]()
    for _ in range(2):
        stack._make_bucket(said.append)
    assert said == ["s3: made the bucket 'autofreeze'"]
    Storage(stack.store).check()
    assert not stack.is_volatile
    assert [one.name for one in stack.states()] == ["prefect", "mlflow", "worker", "s3"]
    s3 = stack.states()[-1]
    assert (s3.state, s3.address, s3.works) == ("reachable", s3_endpoint, True)


@pytest.mark.s3
def test_the_volatile_server_holds_a_store(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path, {"s3": "moto", "s3_port": free_port()})
    server = next(one for one in stack._services() if one.name == "s3")
    stack.services_folder.make()
    try:
        assert stack.services_folder.start(server)
        stack.services_folder.wait_until_healthy(server)
        stack._make_bucket(lambda _: None)
        with environment(stack.settings.s3_environment()):
            Storage(stack.store).check()
    finally:
        stack.services_folder.stop(server)


def test_a_server_that_does_not_answer_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    stack = LocalStack(tmp_path, {"s3": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(
        UserError, match=r"S3 at http://127.0.0.1:\d+ cannot be used: .*See that it"
    ):
        stack._make_bucket(lambda _: None)
    s3 = stack.states()[-1]
    assert (s3.name, s3.state, s3.works) == ("s3", "not reachable", False)
