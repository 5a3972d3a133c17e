"""Stores, disks and servers as a user's command meets them: unreachable, full, damaged, down."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.storage.objects import Storage
from tests.conftest import BUCKET, write_config
from tests.e2e.command import ENTRY, autofreeze, expect_one_message

pytestmark = pytest.mark.slow


@pytest.mark.s3
@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("store", "variables", "message"),
    [
        ("s3://no-such-bucket/x", {}, "bucket"),
        ("s3://elsewhere/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot reach the store"),
        (
            f"s3://{BUCKET}/x",
            {
                "AWS_ACCESS_KEY_ID": "",
                "AWS_SECRET_ACCESS_KEY": "",
                "AWS_EC2_METADATA_DISABLED": "1",
            },
            "no S3 credentials",
        ),
    ],
)
def test_s3_that_cannot_be_used(
    store: str,
    variables: dict[str, str],
    message: str,
    s3_endpoint: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # By other names of the same server: a client that has credentials already is not reused.
    host = "LocalHost" if "AWS_ACCESS_KEY_ID" in variables else "localhost"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint.replace("127.0.0.1", host))
    for name, value in variables.items():
        if value:
            monkeypatch.setenv(name, value)
        else:
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    config = write_config(tmp_path / "c.yaml", tiny_config | {"store": store})
    assert autofreeze("run", config) == 2
    expect_one_message(capfd, message)


@pytest.mark.usefixtures("prefect_server")
def test_a_disk_that_fills_up_is_exit_code_1_and_the_run_goes_on_later(
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from afcore.activations import sets, shards

    def full(storage: Storage, folder: str, rows: np.ndarray) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = write_config(tmp_path / "c.yaml", tiny_config)
    with monkeypatch.context() as patched:
        patched.setattr(shards, "write_array", full)
        assert autofreeze("run", config) == 1
    expect_one_message(capfd, "no space left")
    assert sets.list_sets(Storage(tiny_config["store"])) == []
    report = tmp_path / "r.json"
    assert autofreeze("run", config, "--report", report) == 0
    epochs = json.loads(report.read_text())["epochs"]
    assert [epoch["attempt"] for epoch in epochs][-1] == 2
    assert "activations@" in epochs[-1]["read_from"]


@pytest.mark.usefixtures("prefect_server")
def test_what_is_damaged_in_the_store_is_made_again_or_named(
    tiny_config: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, out = write_config(tmp_path / "c.yaml", tiny_config), tmp_path / "report.json"
    command = ["run", config, "--set", "training.epochs=1", "--report", out]
    assert autofreeze(*command) == 0
    sound = json.loads(out.read_text())
    store = Path(tiny_config["store"])
    for pattern in ("data/*/train.safetensors", "runs/*/run.json", "runs/*/*/result.json"):
        (file,) = store.glob(pattern)
        content = file.read_bytes()
        file.write_bytes(content[:100])
        assert autofreeze(*command) == 0
        again = json.loads(out.read_text())
        assert (again["run_id"], again["epochs"]) == (sound["run_id"], sound["epochs"])
        assert len(file.read_bytes()) > 100
    capfd.readouterr()
    for name in ("checkpoint", "report"):
        (file,) = store.glob(f"runs/*/*/epochs/001/{name}.json")
        (result,) = store.glob("runs/*/*/result.json")
        contents = {path: path.read_bytes() for path in (file, result)}
        file.write_bytes(contents[file][:100])
        result.unlink()
        assert autofreeze(*command) == 1
        expect_one_message(capfd, f"{name}.json is damaged")
        for path, content in contents.items():
            path.write_bytes(content)
    file.write_bytes(b"")
    assert autofreeze(*command, "--fresh") == 0


def test_a_proxy_is_passed_by_on_the_way_to_our_own_server(
    tiny_config: dict[str, Any], tmp_path: Path, prefect_home: Path
) -> None:
    tiny_config["data"]["train"] = "nowhere.csv"
    config = write_config(tmp_path / "c.yaml", tiny_config)
    unset = ("NO_PROXY", "no_proxy", "PREFECT_API_URL")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", ENTRY, "run", str(config)],
        env=environment | {"HTTP_PROXY": "http://127.0.0.1:9", "PREFECT_HOME": str(prefect_home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot load the data 'nowhere.csv'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize(
    ("url", "proxy", "message"),
    [
        ("http://127.0.0.1:9/api", None, "http://127.0.0.1:9/api/ does not answer. Start it"),
        (
            "http://prefect.invalid/api",
            "http://127.0.0.1:9",
            "http://prefect.invalid/api/ does not answer through the proxy http://127.0.0.1:9",
        ),
    ],
)
def test_a_prefect_server_that_is_down(
    url: str,
    proxy: str | None,
    message: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    config = write_config(tmp_path / "c.yaml", tiny_config)
    monkeypatch.setenv("PREFECT_API_URL", url)
    if proxy is not None:
        variables = {"HTTP_PROXY": proxy, "NO_PROXY": "localhost", "no_proxy": "localhost"}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: url}):
        assert autofreeze("run", config) == 2
    expect_one_message(capfd, f"the Prefect server at {message}")


def test_a_damaged_cache_is_exit_code_1(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.activations.test_maintenance import write_set

    storage = Storage(str(tmp_path / "store"))
    found = write_set(storage, "activations/a")
    storage.delete(f"activations/a/{found.manifest.shards[0].name}/c/0/0")
    assert autofreeze("cache", "verify", "--store", storage.root) == 1
    assert "is missing" in capfd.readouterr().err


def test_the_cache_is_listed_and_shrunk(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tests.activations.test_maintenance import write_set

    storage = Storage(str(tmp_path / "store"))
    for name in ("older", "newer"):
        write_set(storage, f"activations/{name}")
    assert autofreeze("cache", "ls", "--store", storage.root) == 0
    assert "0, 0 live" in capfd.readouterr().out
    shrink = ["cache", "gc", "--store", storage.root, "--max-bytes", "50"]
    assert autofreeze(*shrink, "--dry-run") == 0
    out = capfd.readouterr().out
    assert "activations/older: least recently used" in out
    assert "1 would be deleted, 0.0 MB would be freed" in out
    assert storage.list("activations/older")
    assert autofreeze(*shrink) == 0
    assert not storage.list("activations/older")
    assert storage.list("activations/newer")
