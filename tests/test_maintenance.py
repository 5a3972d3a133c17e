import os
import time
from pathlib import Path

import numpy as np
import pytest

from afcore.activations.sets import ActivationSet, ActivationWriter
from afcore.digest import RecipeDigest
from afcore.lease import Lease
from afcore.maintenance import collect_garbage, describe_sets, verify_sets
from afcore.storage import Storage

DAY = 86400.0


def write_set(storage: Storage, folder: str, commit: bool = True) -> ActivationSet | None:
    lengths = np.asarray([2, 3])
    writer = ActivationWriter(storage, folder, lengths, 4, "bf16")
    writer.write_shard(0, np.zeros((5, 4), np.uint16))
    return writer.commit(RecipeDigest("k" * 64), 2, [1, 2], {}, "r") if commit else None


def make_old(root: str) -> None:
    """Everything below was written three days ago."""
    for path in Path(root).rglob("*"):
        os.utime(path, (time.time() - 3 * DAY,) * 2)


def test_sets_are_described(local_storage: Storage) -> None:
    write_set(local_storage, "activations/a")
    private = write_set(local_storage, "runs/r1/activations/b")
    assert private is not None
    private.record_use("r1", "runs/r1")
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        rows = describe_sets(local_storage.root)
    assert [row[-1] for row in rows] == ["no", "yes"]
    assert rows[0][:6] == ("k" * 12, "2", "1>2", "bf16", "2", "0.0")


def test_damage_is_listed(local_storage: Storage) -> None:
    found = write_set(local_storage, "activations/a")
    assert found is not None
    assert verify_sets(local_storage.root) == (1, [])
    local_storage.delete(f"activations/a/{found.manifest.shards[0].name}/c/0/0")
    num_sets, problems = verify_sets(local_storage.root)
    assert num_sets == 1
    assert "is missing" in problems[0]


def test_idle_sets_go_and_used_ones_stay(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = write_set(local_storage, "activations/idle")
    used = write_set(local_storage, "activations/used")
    assert idle is not None
    assert used is not None
    used.record_use("r1", "runs/r1")
    assert collect_garbage(local_storage.root, DAY) == ([], 0)
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        planned, num_bytes = collect_garbage(local_storage.root, 0, dry_run=True)
        assert (len(planned), num_bytes) == (1, 40)
        assert len(describe_sets(local_storage.root)) == 2
        deleted, _ = collect_garbage(local_storage.root, 0)
    assert len(deleted) == 1
    assert "activations/idle" in deleted[0]
    assert local_storage.list("activations/idle") == {}
    assert len(collect_garbage(local_storage.root, 0)[0]) == 1


def test_what_a_killed_writer_left_goes_after_a_day(local_storage: Storage) -> None:
    write_set(local_storage, "activations/torn", commit=False)
    write_set(local_storage, "activations/whole")
    assert collect_garbage(local_storage.root, 30 * DAY) == ([], 0)
    make_old(local_storage.root)
    deleted, num_bytes = collect_garbage(local_storage.root, 30 * DAY)
    assert deleted == ["activations/torn: unfinished"]
    assert num_bytes >= 40
    assert len(describe_sets(local_storage.root)) == 1
