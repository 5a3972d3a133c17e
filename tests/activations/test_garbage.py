"""What goes, what stays."""

import json
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.activations import garbage
from afcore.activations.building import build_lease
from afcore.activations.codec import RowFormat
from afcore.activations.garbage import collect_garbage
from afcore.activations.layout import RaggedLayout
from afcore.activations.maintenance import describe_sets
from afcore.activations.sets import ActivationSet, list_sets, users_of
from afcore.activations.writer import ActivationWriter, SetPlan
from afcore.errors import StoreError
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from tests.conftest import BUCKET
from tests.training_setup import new_set

DAY = 86400.0
PRETRAINED = {"embeddings": "e", "block.000": "b"}
TRAINED = {"embeddings": "e2", "block.000": "b2"}


def write_set(
    storage: Storage, folder: str, *runs: str, commit: bool = True, weights: Any = PRETRAINED
) -> ActivationSet | None:
    """Five rows of eight bytes, used by ``runs``."""
    new = new_set(folder, [1], "k" * 64, {"weights": weights}, "r")
    writer = ActivationWriter(storage, new, np.asarray([2, 3]), RowFormat("bf16", {"h": 4}))
    writer.write_shard(0, np.zeros((5, 4), np.uint16))
    if not commit:
        return None
    found = writer.commit()
    for run in runs:
        found.record_use(run, f"runs/{run}")
    return found


def begin(storage: Storage, run: str, training_id: str = "t1", finished: bool = False) -> None:
    record = {"training_id": training_id, "weights": PRETRAINED | {"head": "h"}}
    storage.put(f"runs/{run}/run.json", json.dumps(record).encode())
    if finished:
        storage.put(f"runs/{run}/{training_id}/result.json", b"{}")


def make_old(storage: Storage) -> None:
    """Everything below was written three days ago."""
    for path in Path(storage.root).rglob("*"):
        os.utime(path, (path.stat().st_mtime - 3 * DAY,) * 2)


def collect(
    storage: Storage, idle_days: float = 30, max_bytes: int | None = None
) -> dict[str, str]:
    """What goes, and why; a dry run must say the same and delete nothing."""
    settings: dict[str, Any] = {"max_idle_seconds": idle_days * DAY, "max_bytes": max_bytes}
    before = storage.list(""), storage.drafts()
    planned = collect_garbage(storage.root, **settings, dry_run=True)
    assert (storage.list(""), storage.drafts()) == before
    removed = collect_garbage(storage.root, **settings)
    assert [removal.folder for removal in removed] == [removal.folder for removal in planned]
    for removal in removed:
        assert not storage.list(removal.folder)
        assert removal.num_bytes >= 0
    return {removal.folder: removal.why for removal in removed}


def test_idle_sets_go_and_those_of_live_runs_stay(storage: Storage) -> None:
    write_set(storage, "activations/idle")
    write_set(storage, "activations/used", "r1")
    begin(storage, "r1")
    assert collect(storage, idle_days=1) == {}
    with Lease(storage, "runs/r1/lease", "run r1"):
        assert list(collect(storage, idle_days=0)) == ["activations/idle"]
    assert list(collect(storage, idle_days=0)) == ["activations/used"]
    assert list_sets(storage) == []


@pytest.mark.parametrize("wrong_days", [40, -40])
def test_ages_are_by_the_stores_clock(
    wrong_days: float, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the caller, or of who wrote a set, may be wrong by a month."""
    begin(storage, "r1")
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + wrong_days * DAY)
    write_set(storage, "activations/used", "r1")
    write_set(storage, "activations/unfinished", commit=False)
    storage.put("runs/r1/t0/activations/k/shards/00000-a/c/0", b"replaced")
    monkeypatch.setattr(time, "time", lambda: true() - wrong_days * DAY)
    assert collect(storage) == {}
    if storage.protocol != "file":
        return
    make_old(storage)
    assert set(collect(storage, idle_days=2)) == {
        "activations/used",
        "activations/unfinished",
        "runs/r1/t0",
    }


def test_a_dry_run_needs_no_rights_to_write(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(storage, "activations/idle")

    def refused(*_: Any) -> None:
        raise StoreError("read only")

    monkeypatch.setattr(Storage, "put", refused)
    assert len(collect_garbage(storage.root, max_idle_seconds=-DAY, dry_run=True)) == 1
    if storage.protocol != "file":
        with pytest.raises(StoreError, match="read only"):
            collect_garbage(storage.root, max_idle_seconds=-DAY)


def test_a_set_that_a_run_opens_meanwhile_stays(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(local_storage, "r1")
    write_set(local_storage, "activations/a", "r1")
    lease = Lease(local_storage, "runs/r1/lease", "run r1")
    monkeypatch.setattr(garbage, "_unreachable", lambda *_: lease.__enter__() and "no reason")
    removed = collect_garbage(local_storage.root, max_idle_seconds=DAY)
    lease.__exit__(None, None, None)
    assert removed == []
    assert len(list_sets(local_storage)) == 1


def test_over_the_budget_the_least_recently_used_go(local_storage: Storage) -> None:
    for run, name in (("r1", "live"), ("r2", "old"), ("r3", "middle"), ("r4", "new")):
        begin(local_storage, run)
        write_set(local_storage, f"activations/{name}", run)
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        assert collect(local_storage, max_bytes=160) == {}
        removed = collect(local_storage, max_bytes=99)
        assert list(removed) == ["activations/old", "activations/middle"]
        assert removed["activations/old"].startswith("least recently used")
        assert list(collect(local_storage, max_bytes=0)) == ["activations/new"]
    assert [found.folder for found in list_sets(local_storage)] == ["activations/live"]


def test_what_goes_anyway_makes_room_in_the_budget(local_storage: Storage) -> None:
    begin(local_storage, "r1")
    write_set(local_storage, "activations/reachable", "r1")
    write_set(local_storage, "activations/orphan", "gone")
    assert list(collect(local_storage, max_bytes=40)) == ["activations/orphan"]


@pytest.mark.parametrize(
    ("weights", "finished", "why"),
    [
        (PRETRAINED, {"r1": True, "r2": True}, None),
        (TRAINED, {"r1": True, "r2": False}, None),
        (TRAINED, {"r1": True, "r2": True}, "only finished runs trained"),
        (PRETRAINED, {}, "the runs that used it are gone"),
    ],
)
def test_shared_sets_go_when_no_run_will_read_them(
    local_storage: Storage, weights: Any, finished: dict[str, bool], why: str | None
) -> None:
    write_set(local_storage, "activations/shared", "r1", "r2", weights=weights)
    for run, is_finished in finished.items():
        begin(local_storage, run, finished=is_finished)
    removed = collect(local_storage)
    assert list(removed) == (["activations/shared"] if why else [])
    assert removed.get("activations/shared", "").startswith(why or "")


def test_private_sets_go_when_their_run_is_done_with_them(local_storage: Storage) -> None:
    for run, finished in (("gone", None), ("done", True), ("interrupted", False)):
        for name in ("low", "high"):
            write_set(local_storage, f"runs/{run}/t1/activations/{name}", run)
        if finished is not None:
            begin(local_storage, run, finished=finished)
    folder = "runs/interrupted/t1"
    for epoch, name in (("001", "low"), ("002", "high")):
        reference = {"folder": f"{folder}/activations/{name}"}
        plan = {"read_from": None if epoch == "001" else reference}
        checkpoint = {"next": plan}
        local_storage.put(
            f"{folder}/epochs/{epoch}/checkpoint.json", json.dumps(checkpoint).encode()
        )
    removed = collect(local_storage)
    assert {f.replace("/t1/activations", ""): why for f, why in removed.items()} == {
        "runs/gone/low": "its run is gone",
        "runs/gone/high": "its run is gone",
        "runs/done/low": "its run is finished",
        "runs/done/high": "its run is finished",
        "runs/interrupted/low": "its run has gone on to another set",
    }


def test_a_training_that_was_replaced_goes_after_a_day(local_storage: Storage) -> None:
    for training_id in ("t1", "t2"):
        local_storage.put(f"runs/r1/{training_id}/parts/p.safetensors", b"weights")
    begin(local_storage, "r1", "t2")
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        pass
    assert collect(local_storage) == {}
    make_old(local_storage)
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        assert collect(local_storage) == {}
    assert list(collect(local_storage)) == ["runs/r1/t1"]


def test_what_a_killed_measurement_left_goes_after_a_day(local_storage: Storage) -> None:
    local_storage.put("probes/abc/run.json", b"{}")
    assert collect(local_storage) == {}
    make_old(local_storage)
    assert list(collect(local_storage)) == ["probes/abc"]


def test_what_killed_writers_left_goes_after_a_day(local_storage: Storage) -> None:
    begin(local_storage, "r1")
    write_set(local_storage, "activations/torn", commit=False)
    write_set(local_storage, "activations/whole", "r1")
    write_set(local_storage, "activations/whole", commit=False)
    draft = Path(local_storage.root, "runs/r1/run.json.abc.draft")
    draft.write_bytes(b"half")
    (whole,) = list_sets(local_storage)
    assert collect(local_storage) == {}
    make_old(local_storage)
    with build_lease(local_storage, "activations/whole", "set"):
        assert set(collect(local_storage)) == {
            "activations/torn",
            "runs/r1/run.json.abc.draft",
        }
    assert not draft.exists()
    ((orphan, why),) = collect(local_storage).items()
    assert orphan.startswith("activations/whole/shards/00000-")
    assert why == "not part of the set any more"
    assert whole.verify() == []


@pytest.mark.usefixtures("quick_hearts")
@pytest.mark.parametrize("wrong_hours", [5, -5])
def test_a_builder_whose_clock_is_another_is_watched(
    wrong_hours: float, local_storage: Storage, wrong_by: list[float]
) -> None:
    begin(local_storage, "r1")
    write_set(local_storage, "activations/whole", "r1")
    write_set(local_storage, "activations/whole", commit=False)
    make_old(local_storage)
    with build_lease(local_storage, "activations/whole", "set"):
        wrong_by[0] = wrong_hours * 3600
        assert collect_garbage(local_storage.root, max_idle_seconds=30 * DAY) == []
    assert len(collect(local_storage)) == 1


def test_damaged_records_cost_no_run_its_files(local_storage: Storage) -> None:
    begin(local_storage, "r1")
    write_set(local_storage, "activations/k1", "r1")
    write_set(local_storage, "runs/r1/t1/activations/k2", "r1")
    local_storage.put("runs/r1/t1/parts/p", b"x")
    for damaged in (b"{", b"[]", b"{}"):
        local_storage.put("runs/r1/run.json", damaged)
        make_old(local_storage)
        assert collect(local_storage) == {}
    assert local_storage.exists("runs/r1/t1/parts/p")


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}", b'{"run": 1, "time": "x"}'])
def test_a_damaged_note_keeps_its_set_for_who_wrote_it(
    damaged: bytes, local_storage: Storage
) -> None:
    begin(local_storage, "r1")
    found = write_set(local_storage, "activations/k1", "r1")
    assert found is not None
    local_storage.put("activations/k1/users/r1.json", damaged)
    ((run, when),) = users_of(local_storage, found.folder).items()
    assert run == "runs/r1"
    assert abs(when - time.time()) < 600
    make_old(local_storage)
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        assert collect(local_storage, idle_days=0) == {}


def test_files_of_others_stay(local_storage: Storage) -> None:
    write_set(local_storage, "activations/used", "r1")
    begin(local_storage, "r1")
    strays = ["runs/note.txt", "runs/r1/note.txt", "activations/.DS_Store", "probes/x", "note.txt"]
    for key in strays:
        local_storage.put(key, b"mine")
    make_old(local_storage)
    assert collect(local_storage) == {}
    assert set(strays) <= set(local_storage.list(""))


def test_the_store_is_not_asked_for_each_object(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(storage, "activations/unfinished", commit=False)

    def asked(_storage: Storage, key: str) -> None:
        if key == "store.json":  # once
            raise KeyError(key)
        raise AssertionError(key)

    for question in ("exists", "get"):
        monkeypatch.setattr(Storage, question, asked)
    assert collect(storage) == {}


def write_shards(storage: Storage, folder: str, num_shards: int) -> None:
    """A set of shards of one example each, used by one run; and as many that were given up."""
    row_format = RowFormat("bf16", {"h": 4})
    for weights, commit in (({}, True), (PRETRAINED, False)):
        new = new_set(folder, [1], "k" * 64, {"weights": weights}, "r")
        ones = np.ones(num_shards, dtype=np.int64)
        layout = RaggedLayout(np.arange(num_shards), np.zeros_like(ones), ones)
        writer = ActivationWriter(storage, new, ones, row_format, plan=SetPlan(layout))
        for shard in range(num_shards):
            writer.write_shard(shard, np.zeros((1, 4), np.uint16))
        if commit:
            writer.commit().record_use("r1", "runs/r1")


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_requests_are_for_sets_and_pages_not_for_objects(
    tmp_path: Path, s3_requests: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, list[Counter[str]]] = {}

    def count(what: str) -> None:
        counts.setdefault(what, []).append(Counter(s3_requests))
        s3_requests.clear()

    for num_shards in (1, 6):
        storage = Storage(f"s3://{BUCKET}/{tmp_path.name}-{num_shards}-{time.time_ns()}")
        begin(storage, "r1")
        for name in ("a", "b"):
            write_shards(storage, f"activations/{name}", num_shards)
        s3_requests.clear()
        assert len(describe_sets(storage.root)) == 2
        count("ls")
        with monkeypatch.context() as patch:
            patch.setattr(Storage, "time", lambda _: time.time() + 2 * DAY)
            removed = collect_garbage(storage.root, max_idle_seconds=30 * DAY)
        assert len(removed) == 2 * num_shards
        count("leftovers")
        removed = collect_garbage(storage.root, max_idle_seconds=0)
        assert len(removed) == 2
        count("sets")
        assert list(storage.list("")) == ["runs/r1/run.json"]
    for what, (few, many) in counts.items():
        assert few == many, what
    assert counts["ls"][0] == {"list_objects_v2": 4, "get_object": 2}
    assert counts["leftovers"][0]["delete_objects"] == 2
    assert counts["sets"][0]["delete_objects"] <= 6
