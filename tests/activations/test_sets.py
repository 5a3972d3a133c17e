import errno
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from afcore.activations import layout as layout_module
from afcore.activations import sets as sets_module
from afcore.activations import shards as shards_module
from afcore.activations import writer as writer_module
from afcore.activations.codec import STORED_AS, RowFormat, row_width
from afcore.activations.manifest import ActivationManifest
from afcore.activations.sets import ActivationSet, list_sets, open_set, users_of
from afcore.activations.writer import ActivationWriter
from afcore.errors import IntegrityError, StorageFullError
from afcore.storage.objects import Storage
from tests.training_setup import new_set

FOLDER = "activations/some-key"
LENGTHS = np.asarray([3, 1, 7, 2, 2, 5, 9, 4])
HIDDEN = 4
NEW = new_set(FOLDER, [2], "key", {"some": "recipe"})


def row_format(dtype: Any) -> RowFormat:
    return RowFormat(dtype, {"hidden_states": HIDDEN})


def row_values(lengths: np.ndarray, dtype: Any = "bf16") -> list[np.ndarray]:
    """Stored rows of every example, each row different."""
    width = row_width(HIDDEN, dtype)
    rows = np.arange(lengths.sum() * width).astype(STORED_AS[dtype]).reshape(-1, width)
    return np.split(rows, np.cumsum(lengths)[:-1])


def write(
    storage: Storage, lengths: np.ndarray = LENGTHS, dtype: Any = "bf16", commit: bool = True
) -> ActivationSet | None:
    writer = ActivationWriter(storage, NEW, lengths, row_format(dtype))
    values = row_values(lengths, dtype)
    for shard in range(writer.layout.num_shards):
        writer.write_shard(
            shard, np.concatenate([values[i] for i in writer.layout.examples(shard)])
        )
    if not commit:
        return None
    return writer.commit()


def read_example(found: ActivationSet, example: int) -> np.ndarray:
    layout = found.layout
    start = layout.start[example]
    return found.read_shard(layout.shard[example])[start : start + layout.lengths[example]]


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several shards for a few rows."""
    plan = layout_module.plan_layout
    monkeypatch.setattr(
        writer_module,
        "plan_layout",
        lambda lengths, row_bytes: plan(lengths, row_bytes=row_bytes, shard_bytes=64),
    )


@pytest.mark.parametrize("dtype", ["bf16", "fp32", "int8"])
def test_what_is_written_is_read(storage: Storage, dtype: Any) -> None:
    committed = write(storage, dtype=dtype)
    found = open_set(storage, FOLDER)
    assert found is not None
    assert committed is not None
    assert found.manifest == committed.manifest
    assert found.layout.num_shards > 2
    values = row_values(LENGTHS, dtype)
    for example, expected in enumerate(values):
        assert np.array_equal(read_example(found, example), expected)
    assert found.manifest.num_bytes == LENGTHS.sum() * {"bf16": 8, "fp32": 16, "int8": 8}[dtype]
    assert found.verify() == []
    assert [s.folder for s in list_sets(storage)] == [FOLDER]


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"num_rows": "many"}, {"shards": [{"name": "s"}]}, None]
)
def test_a_manifest_of_another_form_is_damaged_and_said_in_one_line(
    local_storage: Storage, change: dict[str, Any] | None
) -> None:
    found = write(local_storage)
    assert found is not None
    key = f"{FOLDER}/manifest.json"
    tree = json.loads(local_storage.get(key))
    assert ActivationManifest.from_json(found.manifest.to_json()) == found.manifest
    local_storage.put(key, json.dumps([] if change is None else tree | change).encode())
    with pytest.raises(IntegrityError, match=r"manifest\.json is damaged: .*") as raised:
        open_set(local_storage, FOLDER)
    assert "\n" not in str(raised.value)


def test_a_shard_is_one_array_with_one_uncompressed_chunk(local_storage: Storage) -> None:
    found = write(local_storage)
    assert found is not None
    keys = local_storage.list(FOLDER)
    for number, shard in enumerate(found.manifest.shards):
        objects = {k.removeprefix(f"{FOLDER}/{shard.name}/"): n for k, n in keys.items()}
        assert objects["c/0/0"] == found.layout.num_rows(number) * HIDDEN * 2


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=40),
    shard_bytes=st.integers(1, 2000),
    data=st.data(),
)
def test_any_lengths_any_chunk_size_any_batch(
    monkeypatch: pytest.MonkeyPatch, lengths: list[int], shard_bytes: int, data: st.DataObject
) -> None:
    plan = layout_module.plan_layout
    monkeypatch.setattr(
        writer_module,
        "plan_layout",
        lambda lengths, row_bytes: plan(lengths, row_bytes=row_bytes, shard_bytes=shard_bytes),
    )
    storage = Storage("memory://hypothesis")
    storage.delete_folder("activations")
    found = write(storage, np.asarray(lengths))
    assert found is not None
    values = row_values(np.asarray(lengths))
    batch = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    for example in batch:
        assert np.array_equal(read_example(found, example), values[example])


def test_without_a_manifest_there_is_no_set(storage: Storage) -> None:
    write(storage, commit=False)
    assert open_set(storage, FOLDER) is None
    assert list_sets(storage) == []


def test_a_set_with_a_shard_unwritten_is_not_committed(local_storage: Storage) -> None:
    writer = ActivationWriter(local_storage, NEW, LENGTHS, row_format("bf16"))
    with pytest.raises(ValueError, match=r"0 of \d shards"):
        writer.commit()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((1, HIDDEN), np.uint16), "expected"),
        (np.zeros((1, HIDDEN), np.float32), "float32"),
    ],
)
def test_rows_of_another_shape_or_type_are_refused(
    local_storage: Storage, rows: np.ndarray, message: str
) -> None:
    writer = ActivationWriter(local_storage, NEW, LENGTHS, row_format("bf16"))
    with pytest.raises(ValueError, match=message):
        writer.write_shard(0, rows)


def test_of_two_writers_the_first_to_commit_wins(storage: Storage) -> None:
    barrier, found = threading.Barrier(2), []

    def work() -> None:
        writer = ActivationWriter(storage, NEW, LENGTHS, row_format("bf16"))
        values = row_values(LENGTHS)
        for shard in range(writer.layout.num_shards):
            ids = writer.layout.examples(shard)
            writer.write_shard(shard, np.concatenate([values[i] for i in ids]))
        barrier.wait()
        found.append(writer.commit())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = found
    assert one.manifest == two.manifest
    assert one.verify() == []
    shards = {key.split("/")[3] for key in storage.list(f"{FOLDER}/shards")}
    assert shards == {shard.name.split("/")[1] for shard in one.manifest.shards}


def _chunk_key(storage: Storage, found: ActivationSet, shard: int) -> str:
    name = found.manifest.shards[shard].name
    return next(key for key in storage.list(f"{FOLDER}/{name}") if key.endswith("c/0/0"))


@pytest.mark.parametrize("damage", ["missing", "empty", "torn", "flipped"])
def test_damage_is_noticed_and_mended(storage: Storage, damage: str) -> None:
    found = write(storage)
    assert found is not None
    expected = found.read_shard(1)
    key = _chunk_key(storage, found, 1)
    data = storage.get(key)
    if damage == "missing":
        storage.delete(key)
    elif damage == "empty":
        storage.put(key, b"")
    elif damage == "torn":
        storage.put(key, data[: len(data) // 2])
    else:
        storage.put(key, bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(IntegrityError, match=found.manifest.shards[1].name):
        found.read_shard(1)
    assert len(found.verify()) == 1
    old = found.manifest.shards[1].name
    found.replace_shard(1, expected)
    again = open_set(storage, FOLDER)
    assert again is not None
    assert again.verify() == []
    assert np.array_equal(again.read_shard(1), expected)
    assert again.manifest.shards[1].name != old
    assert not storage.list(f"{FOLDER}/{old}")


def test_two_runs_mend_different_shards_of_one_set(storage: Storage) -> None:
    one, other, third = write(storage), open_set(storage, FOLDER), open_set(storage, FOLDER)
    assert one is not None
    assert other is not None
    assert third is not None
    rows = [one.read_shard(0), one.read_shard(1)]
    for shard in (0, 1):
        storage.delete(_chunk_key(storage, one, shard))
    one.replace_shard(0, rows[0])
    other.replace_shard(1, rows[1])
    third.replace_shard(0, rows[0])  # which was mended meanwhile
    again = open_set(storage, FOLDER)
    assert again is not None
    assert again.verify() == []
    assert again.manifest == other.manifest == third.manifest
    assert again.manifest.shards[0] == one.manifest.shards[0]


def test_two_runs_that_mend_at_once_lose_neither_repair(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [write(storage), open_set(storage, FOLDER)]
    rows = [one.read_shard(shard) for shard, one in enumerate(found) if one is not None]
    write_shard = sets_module.write_shard

    def slowly(*args: Any) -> Any:
        time.sleep(0.3)  # after the newest manifest was read, before it is replaced
        return write_shard(*args)

    monkeypatch.setattr(sets_module, "write_shard", slowly)
    for shard, one in enumerate(found):
        assert one is not None
        storage.delete(_chunk_key(storage, one, shard))
    with ThreadPoolExecutor(2) as pool:
        for repair in [
            pool.submit(one.replace_shard, shard, rows[shard])
            for shard, one in enumerate(found)
            if one is not None
        ]:
            repair.result(timeout=60)
    again = open_set(storage, FOLDER)
    assert again is not None
    assert again.verify() == []
    assert not storage.list(f"{FOLDER}/repair")


def test_a_set_that_was_evicted_is_not_brought_back_by_a_repair(storage: Storage) -> None:
    found = write(storage)
    assert found is not None
    rows = found.read_shard(0)
    storage.delete_folder(FOLDER)
    found.replace_shard(0, rows)
    assert open_set(storage, FOLDER) is None
    assert np.array_equal(found.read_shard(0), rows)


def test_a_set_that_was_built_anew_is_not_replaced_by_the_former_one(storage: Storage) -> None:
    former = write(storage)
    assert former is not None
    rows = former.read_shard(0)
    storage.delete_folder(FOLDER)
    anew = write(storage)
    assert anew is not None
    former.replace_shard(0, rows)
    assert former.manifest == anew.manifest
    again = open_set(storage, FOLDER)
    assert again is not None
    assert again.manifest == anew.manifest


@pytest.mark.parametrize("metadata", [None, b"{", b'{"zarr_format": 3}'])
def test_damaged_metadata_is_noticed_but_costs_no_rows(
    storage: Storage, metadata: bytes | None
) -> None:
    found = write(storage)
    assert found is not None
    expected = found.read_shard(1)
    key = f"{found.folder}/{found.manifest.shards[1].name}/zarr.json"
    storage.delete(key)
    if metadata is not None:
        storage.put(key, metadata)
    assert np.array_equal(found.read_shard(1), expected)
    (problem,) = found.verify()
    assert found.manifest.shards[1].name in problem


def test_any_zarr_reader_opens_a_shard(storage: Storage) -> None:
    found = write(storage)
    assert found is not None
    name = f"{found.folder}/{found.manifest.shards[0].name}"
    endpoint = {"endpoint_url": os.environ.get("AWS_ENDPOINT_URL")}
    options = endpoint if storage.protocol == "s3" else None
    store: Store = (
        LocalStore(f"{storage.root}/{name}")
        if storage.protocol == "file"
        else FsspecStore.from_url(storage.uri(name), storage_options=options)
    )
    array = zarr.open_array(store, mode="r")
    assert array.chunks == array.shape
    assert np.array_equal(array[...], found.read_shard(0))


def test_a_shard_is_read_into_memory_that_is_there(storage: Storage) -> None:
    found = write(storage)
    assert found is not None
    expected = found.read_shard(0)
    out = np.empty_like(expected)
    assert found.read_shard(0, out) is out
    assert np.array_equal(out, expected)


def test_a_disk_that_fills_up_leaves_nothing(
    local_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = writer_module.write_array, []

    def failing(storage: Storage, folder: str, rows: np.ndarray) -> str:
        calls.append(folder)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(storage, folder, rows)

    for module in (shards_module, writer_module):
        monkeypatch.setattr(module, "write_array", failing)
    with pytest.raises(StorageFullError, match="no space left") as caught:
        write(local_storage)
    assert caught.value.exit_code == 1
    assert local_storage.list("") == {}


def test_users_are_noted(local_storage: Storage) -> None:
    found = write(local_storage)
    assert found is not None
    found.record_use("r1", "runs/r1")
    found.record_use("r1", "runs/r1")
    found.record_use("r2", "runs/r2")
    assert list(users_of(local_storage, found.folder)) == ["runs/r1", "runs/r2"]
