"""What a run leaves behind gives nothing away, and what is planted in it is never executed."""

import contextlib
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afcore.activations.maintenance import describe_sets
from afcore.config import parse_config
from afcore.errors import AutoFreezeError, ConfigError
from afcore.results.page import report_page
from afcore.results.report import RunReport
from afcore.runs.show import find_status
from afcore.runs.whole_run import complete_run
from afcore.storage.objects import Storage
from tests.conftest import environment

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws-s3cr3t-7431",
    "AWS_SESSION_TOKEN": "aws-t0ken-7432",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-passw0rd-7433",
    "HTTP_PROXY": "http://me:proxy-passw0rd-7434@127.0.0.1:9",
    "HF_TOKEN": "hf-t0ken-7435",
}
GREPPED = [
    b"aws-s3cr3t-7431",
    b"aws-t0ken-7432",
    b"mlflow-passw0rd-7433",
    b"proxy-passw0rd-7434",
    b"hf-t0ken-7435",
]


@pytest.fixture
def secrets() -> Iterator[None]:
    with environment({**SECRETS, "NO_PROXY": "127.0.0.1,localhost"}):
        yield


@pytest.mark.usefixtures("secrets")
def test_no_secret_is_in_anything_that_a_run_leaves(
    prefect_server: str,
    tiny_config: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Store, MLflow's database and artifacts, Prefect's database, logs, report and page."""
    from pipelines.finetune import finetune

    tiny_config["training"]["epochs"] = 1
    with caplog.at_level(logging.DEBUG):
        result = finetune(parse_config(tiny_config, source="test"))
    result.pop("recorded", None)
    report = RunReport.model_validate(result)
    (tmp_path / "report.json").write_text(report.model_dump_json(by_alias=True))
    (tmp_path / "page.html").write_text(report_page([report]))
    printed = capfd.readouterr()
    (tmp_path / "log.txt").write_text(caplog.text + printed.out + printed.err)
    folders = [tmp_path, Path(os.environ["PREFECT_HOME"])]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in files}
    assert {"mlflow.db", "run.json", "report.json", "page.html", "prefect.db"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    for path in files:
        content = path.read_bytes()
        found = [secret for secret in GREPPED if secret in content]
        assert not found, f"{path} holds {found}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "s3://me:passw0rd-7436@127.0.0.1/bucket"),
        ("tracking", {"uri": "http://me:passw0rd-7436@127.0.0.1:5000"}),
        ("data", {"train": "https://me:passw0rd-7436@127.0.0.1/rows.csv"}),
    ],
)
def test_an_address_with_a_password_is_refused_and_not_repeated(
    tiny_config: dict[str, Any], key: str, value: Any
) -> None:
    with pytest.raises(ConfigError, match=key) as refused:
        parse_config({**tiny_config, key: value}, source="test")
    assert "passw0rd-7436" not in str(refused.value)


class Planted:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_planted_pickle_is_never_executed(tiny_config: dict[str, Any], tmp_path: Path) -> None:
    """In place of every kind of object of a stopped run, one after the other and all at once."""
    tiny_config["training"]["epochs"] = 1
    config = parse_config(tiny_config, source="test")
    complete_run(config)
    storage, mark = Storage(config.store), tmp_path / "executed"
    payload = pickle.dumps(Planted(mark))
    pickle.loads(payload)
    mark.rmdir()  # it would have worked
    sound = {key: storage.get(key) for key in storage.list("")}
    (result,) = (key for key in sound if key.endswith("/result.json"))
    kinds = {_kind(key): key for key in sound}
    assert {".safetensors", "manifest.json", "run.json"} <= set(kinds)
    for planted in [*([key] for key in kinds.values()), list(sound)]:
        for key, content in sound.items():
            storage.put(key, content)
        storage.delete(result)  # else all of it is found, and nothing is read
        for key in planted:
            storage.put(key, payload)
        for use in (complete_run, _show):
            with contextlib.suppress(AutoFreezeError):
                use(config)
        assert not mark.exists(), planted


def _show(config: Any) -> None:
    describe_sets(config.store)
    find_status(Storage(config.store), config)


def _kind(key: str) -> str:
    name = key.rpartition("/")[2]
    return ".safetensors" if name.endswith(".safetensors") else name
