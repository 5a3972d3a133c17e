"""What ``runs gc`` deletes, and what it must not."""

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from afcore.config import Config, parse_config
from afcore.runs.model_folder import write_model_folder
from afcore.runs.publish import publish
from afcore.runs.retention import collect_runs, list_runs
from afcore.runs.run import Run, open_run, run_lease
from afcore.runs.state import load_checkpoint
from afcore.storage.objects import Storage
from afcore.tracking.tracker import Tracker
from tests.conftest import BUCKET
from tests.test_stopping import train

DAY = 86400.0


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2}
    tiny_config["freezing"] = {"policy": "frozen_start", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.fixture
def runs(config: Config) -> tuple[Run, Run]:
    """One that is published, and one of another seed that is not; both read one set."""
    published, _ = train(config, Path(config.store), [])
    tracker = Tracker(config.tracking.uri, config.tracking.experiment)
    publish(published, tracker, tracker.begin("t", "n"), 1.0)
    other, _ = train(config.replace(**{"training.seed": 1}), Path(config.store), [])
    return published, other


def test_a_published_run_keeps_its_records_and_another_run_all_of_it(
    config: Config, runs: tuple[Run, Run], tmp_path: Path
) -> None:
    published, other = runs
    storage = Storage(config.store)
    assert {one.run_id: one.state for one in list_runs(storage)} == {
        published.record.run_id: "published",
        other.record.run_id: "unfinished",
    }
    write_model_folder(config, published.record.run_id, tmp_path / "before")
    before = storage.list("")
    told = collect_runs(config.store, max_idle_seconds=DAY, dry_run=True)
    assert storage.list("") == before
    done = collect_runs(config.store, max_idle_seconds=DAY)
    assert done == told
    parts = {key for key in before if key.startswith(f"{published.parts_folder}/")}
    assert parts
    assert set(before) - set(storage.list("")) == parts
    assert done[0].num_bytes == sum(before[key] for key in parts)
    load_checkpoint(other, 2)
    assert collect_runs(config.store, max_idle_seconds=DAY) == []

    write_model_folder(config, published.record.run_id, tmp_path / "after")
    weights = "model.safetensors"
    assert (tmp_path / "after" / weights).read_bytes() == (
        tmp_path / "before" / weights
    ).read_bytes(), "from MLflow"


def test_old_runs_go_without_orphans_and_live_ones_stay(
    config: Config, runs: tuple[Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    published, other = runs
    storage = Storage(config.store)
    sets = {key for key in storage.list("activations")}
    monkeypatch.setattr(Storage, "time", lambda _: time.time() + 31 * DAY)
    with run_lease(storage, other.record.run_id):
        removed = collect_runs(config.store, max_idle_seconds=30 * DAY)
    assert [one.folder for one in removed] == [f"runs/{published.record.run_id}"]
    assert "published, not worked on for 31 days" in removed[0].why
    assert not storage.list(f"runs/{published.record.run_id}")
    load_checkpoint(open_run(config.store, other.record.run_id), 2)
    assert {key for key in storage.list("activations")} == sets
    assert storage.list("data"), "the other run's"

    monkeypatch.setattr(Storage, "time", lambda _: time.time() + 62 * DAY)
    removed = collect_runs(config.store, max_idle_seconds=30 * DAY)
    assert [one.folder.partition("/")[0] for one in removed] == ["runs", "data"]
    left = storage.list("")
    shared = {"activations", "activations_by_prefix", "hub", "store.json"}
    assert {key.partition("/")[0] for key in left} <= shared


@pytest.mark.parametrize("wrong_days", [40, -40])
def test_ages_are_by_the_stores_clock(
    wrong_days: float, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("runs/r1/t1/state.json", "data/d1/ids", "searches/s1/trials/1.json"):
        storage.put(key, b"{}")
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + wrong_days * DAY)
    assert collect_runs(storage.root, max_idle_seconds=30 * DAY) == []
    if storage.protocol != "file":
        return
    for path in Path(storage.root).rglob("*"):
        os.utime(path, (path.stat().st_mtime - 31 * DAY,) * 2)
    removed = collect_runs(storage.root, max_idle_seconds=30 * DAY)
    assert [one.folder for one in removed] == ["runs/r1", "searches/s1", "data/d1"]


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_requests_are_for_runs_not_for_objects(tmp_path: Path, s3_requests: Counter[str]) -> None:
    listed, deleted = [], []
    for num_parts in (1, 9):
        storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{num_parts}-{time.time_ns()}")
        for run in ("r1", "r2"):
            storage.put(f"runs/{run}/run.json", b"{}")
            for part in range(num_parts):
                storage.put(f"runs/{run}/t1/parts/{part}.safetensors", b"1234")
        s3_requests.clear()
        assert [one.num_bytes for one in list_runs(storage)] == [2 + 4 * num_parts] * 2
        listed.append(Counter(s3_requests))
        s3_requests.clear()
        assert len(collect_runs(storage.root, max_idle_seconds=0)) == 2
        deleted.append(Counter(s3_requests))
        assert storage.list("") == {}
    assert listed[0] == listed[1] == {"list_objects_v2": 1, "get_object": 2}
    assert deleted[0] == deleted[1]
    assert deleted[0]["delete_objects"] == 2
