"""A store that is disturbed, or away, while a run trains: the same numbers, or one message."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec.config
import pytest
import s3fs
from moto.server import ThreadedMotoServer

from afcore.config import Config, parse_config
from afcore.errors import StoreLostError, StoreUnreachableError
from afcore.outage import OUTAGE_VARIABLE
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, done_reports, record_of
from afcore.runs.run import Run, begin_run, open_run, run_lease
from afcore.runs.spent import lost_seconds
from afcore.storage.objects import Storage
from tests.conftest import BUCKET, environment, free_port
from tests.faulty_proxy import faulty_proxy

pytestmark = [pytest.mark.s3]


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    """A set is built and read in the one epoch."""
    tiny_config["training"] |= {"epochs": 1}
    tiny_config["freezing"] = {"policy": "frozen_start", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.fixture
def expected(config: Config, undisturbed: dict[str, Any]) -> Any:
    if not undisturbed:
        undisturbed["run"] = outcome(trained(config))
    return undisturbed["run"]


def outcome(run: Run) -> list[Any]:
    """Weights and moments, losses, decisions, statistics; not seconds."""
    record = record_of(run, 1, CheckpointRecord)
    assert record is not None
    return [
        record.parts,
        [step.loss for step in record.trained.steps],
        [(repr(one.decision), one.statistics) for one in record.trained.intervals],
        record.trained.validation,
    ]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not wait for long themselves."""
    retries = {"retries": {"max_attempts": 0}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": retries})
    for name, value in {"connect_timeout": 1, "read_timeout": 0.3, "retries": 1}.items():
        monkeypatch.setattr(s3fs.S3FileSystem, name, value)


def trained(config: Config) -> Run:
    """As the flow does it, without one."""
    storage = Storage(config.store, waits=True)
    record = identify_run(config, storage)
    with run_lease(storage, record.run_id) as lease:
        begin_run(storage, record)
        run = open_run(config.store, record.run_id)
        run_epoch(run, 1, lease.number)
    return run


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("share", "seed"),
    [
        pytest.param(share, seed, marks=[pytest.mark.faults] if seed else [])
        for share in (0.1, 0.2)
        for seed in range(15)
    ],
)
def test_requests_that_fail_change_nothing(
    share: float,
    seed: int,
    config: Config,
    expected: Any,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    with (
        faulty_proxy(s3_endpoint, share, seed) as proxy,
        environment({"AWS_ENDPOINT_URL": proxy.url}),
    ):
        run = trained(config.replace(store=f"s3://{BUCKET}/{tmp_path.name}-{seed}"))
        assert outcome(run) == expected
    assert sum(proxy.happened.values()) > 1, proxy.happened


@pytest.fixture
def own_server() -> Iterator["OwnServer"]:
    """An S3 server that can be stopped, and started with what it had, at the same address."""
    server = OwnServer()
    with environment({"AWS_ENDPOINT_URL": server.url}):
        server.start()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield server
        server.stop()


class OwnServer:
    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._server: ThreadedMotoServer | None = None

    def start(self) -> None:
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
        self._server = None


def stop_at(monkeypatch: pytest.MonkeyPatch, name: str, stopped: Any) -> None:
    """Call ``stopped`` once, before the first write to an object whose key ends so."""
    put = Storage.put

    def stopping(storage: Storage, key: str, *args: Any, **kwargs: Any) -> None:
        nonlocal stopped
        if key.endswith(name) and stopped is not None:
            stopped, call = None, stopped
            call()
        put(storage, key, *args, **kwargs)

    monkeypatch.setattr(Storage, "put", stopping)


@pytest.mark.usefixtures("hasty", "s3_endpoint")
def test_a_store_that_is_away_at_an_epochs_end_costs_no_epoch(
    config: Config,
    expected: Any,
    own_server: OwnServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(OUTAGE_VARIABLE, "20")

    def away() -> None:
        own_server.stop()
        threading.Timer(4.0, own_server.start).start()

    stop_at(monkeypatch, "001/checkpoint.json", away)
    began = time.monotonic()
    run = trained(config.replace(store=f"s3://{BUCKET}/{tmp_path.name}"))
    assert time.monotonic() - began > 4.0
    assert outcome(run) == expected
    assert lost_seconds(run, done_reports(run, 1), []) == 0.0, "nothing was trained twice"
    said = [record.message for record in caplog.records if "afcore.outage" in record.name]
    assert len(said) == 2, said
    assert "does not answer; what was done is kept in memory" in said[0]
    assert "answers again, after" in said[1]


@pytest.mark.usefixtures("hasty", "s3_endpoint")
def test_a_store_that_stays_away_is_one_message(
    config: Config, own_server: OwnServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTAGE_VARIABLE, "1")
    root = f"s3://{BUCKET}/{tmp_path.name}"
    stop_at(monkeypatch, "001/checkpoint.json", own_server.stop)
    with pytest.raises(StoreLostError) as raised:
        trained(config.replace(store=root))
    assert raised.value.exit_code == 1
    text = str(raised.value)
    assert text.startswith(f"the store {root} does not answer, for ")
    assert text.endswith("what is committed stands, and the same command goes on from there.")
    assert "lease" not in text
    began = time.monotonic()
    with pytest.raises(StoreLostError):
        Storage(root, waits=True).get("a")
    assert time.monotonic() - began < 5.0, "nobody waits for it again"
    with pytest.raises(StoreUnreachableError) as at_once:
        Storage(root).check()
    assert at_once.value.exit_code == 2
