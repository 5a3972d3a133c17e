import numpy as np

from afcore.activations.codec import RowFormat
from afcore.activations.maintenance import describe_sets, verify_sets
from afcore.activations.sets import ActivationSet
from afcore.activations.writer import ActivationWriter
from afcore.storage.lease import Lease
from afcore.storage.objects import Storage
from tests.training_setup import new_set


def write_set(storage: Storage, folder: str) -> ActivationSet:
    new = new_set(folder, [1, 2], "k" * 64)
    writer = ActivationWriter(storage, new, np.asarray([2, 3]), RowFormat("bf16", {"h": 4}))
    writer.write_shard(0, np.zeros((5, 4), np.uint16))
    return writer.commit()


def test_sets_are_described(local_storage: Storage) -> None:
    write_set(local_storage, "activations/a")
    private = write_set(local_storage, "runs/r1/activations/b")
    private.record_use("r1", "runs/r1")
    private.record_use("r2", "runs/r2")
    with Lease(local_storage, "runs/r1/lease", "run r1"):
        rows = describe_sets(local_storage.root)
    assert [row[-1] for row in rows] == ["0, 0 live", "2, 1 live"]
    assert rows[0][:6] == ("k" * 12, "2", "1>2", "bf16", "2", "0.0")


def test_damage_is_listed(local_storage: Storage) -> None:
    found = write_set(local_storage, "activations/a")
    assert verify_sets(local_storage.root) == (1, [])
    local_storage.delete(f"activations/a/{found.manifest.shards[0].name}/c/0/0")
    num_sets, problems = verify_sets(local_storage.root)
    assert num_sets == 1
    assert "is missing" in problems[0]


def test_a_damaged_manifest_is_listed(local_storage: Storage) -> None:
    write_set(local_storage, "activations/a")
    write_set(local_storage, "activations/b")
    key = "activations/a/manifest.json"
    local_storage.put(key, local_storage.get(key)[:50])
    num_sets, (problem,) = verify_sets(local_storage.root)
    assert num_sets == 2
    assert "activations/a/manifest.json is damaged" in problem
