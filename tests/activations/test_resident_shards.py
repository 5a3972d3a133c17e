import errno
import os
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from afcore.activations import residency, resident_shards
from afcore.activations.arrays import checksum
from afcore.activations.layout import RaggedLayout, plan_layout
from afcore.activations.residency import (
    Residency,
    hold_shards,
    measure_budgets,
    release_shards,
)
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.tiers import Budgets
from afcore.errors import StorageFullError
from afcore.model.stacks import HIDDEN_STATES

WIDTH = 4
LENGTHS = np.asarray([3, 1, 7, 2, 2, 5, 9, 4])
CPU = torch.device("cpu")


def make_layout(lengths: np.ndarray = LENGTHS) -> RaggedLayout:
    return plan_layout(lengths, row_bytes=2 * WIDTH, shard_bytes=64)


def rows_of(layout: RaggedLayout, shard: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, shard))
    return rng.integers(0, 2**16, (layout.num_rows(shard), WIDTH), dtype=np.uint16)


def fill(held: ResidentShards, layout: RaggedLayout) -> list[bool]:
    """Put every shard; which of them are held afterwards."""
    for shard in range(layout.num_shards):
        rows = rows_of(layout, shard)
        held.put(shard, checksum(rows), rows.copy())
    labels = [checksum(rows_of(layout, shard)) for shard in range(layout.num_shards)]
    return [held.has(shard, label) for shard, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("budgets", "random_access", "tier"),
    [
        ((10**6, 0, 0), False, "device memory"),
        ((0, 10**6, 0), False, "host memory"),
        ((0, 0, 10**6), False, "local disk"),
        ((0, 0, 0), True, "local disk"),
    ],
)
def test_what_is_put_is_got_from_every_tier(
    budgets: tuple[int, int, int], random_access: bool, tier: str
) -> None:
    layout = make_layout()
    held = ResidentShards(Budgets(*budgets), store_is_local=False)
    held.fit(layout, 2 * WIDTH, random_access)
    assert layout.num_shards > 2
    assert all(fill(held, layout))
    for shard in range(layout.num_shards):
        rows = rows_of(layout, shard)
        assert np.array_equal(held.get(shard, checksum(rows)), rows)
        assert held.get(shard, "another") is None
    assert held.bytes_by_tier() == {tier: LENGTHS.sum() * 2 * WIDTH}


def test_nothing_is_held_of_the_store_tier_nor_beside_a_local_store() -> None:
    layout = make_layout()
    for budgets, local in (((0, 0, 0), False), ((0, 0, 10**6), True)):
        held = ResidentShards(Budgets(*budgets), store_is_local=local)
        held.fit(layout, 2 * WIDTH)
        assert not any(fill(held, layout))


def test_a_set_of_the_same_layout_takes_the_place_shard_by_shard() -> None:
    layout = make_layout()
    held = ResidentShards(Budgets(0, 10**6, 0))
    held.fit(layout, 2 * WIDTH)
    fill(held, layout)
    held.fit(make_layout(), 2 * WIDTH)
    new = rows_of(layout, 1, seed=1)
    held.put(1, checksum(new), new)
    assert held.get(1, checksum(rows_of(layout, 1))) is None
    assert np.array_equal(held.get(1, checksum(new)), new)
    assert held.has(0, checksum(rows_of(layout, 0)))
    held.fit(make_layout(LENGTHS[::-1]), 2 * WIDTH)
    assert held.host == {}
    assert not held.has(0, checksum(rows_of(layout, 0)))


def test_bytes_that_changed_on_the_local_disk_are_not_given() -> None:
    layout = make_layout()
    held = ResidentShards(Budgets(0, 0, 10**6), store_is_local=False)
    held.fit(layout, 2 * WIDTH)
    fill(held, layout)
    os.pwrite(held._file._file.fileno(), b"\xff\xfe\xff", held._file._first_byte[1])
    assert held.get(1, checksum(rows_of(layout, 1))) is None
    assert held.get(0, checksum(rows_of(layout, 0))) is not None


def test_a_disk_without_room_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resident_shards.os, "posix_fallocate", full)
    held = ResidentShards(Budgets(0, 0, 10**6), store_is_local=False)
    with pytest.raises(StorageFullError, match=r"Lower cache\.disk_bytes"):
        held.fit(make_layout(), 2 * WIDTH)


SMALL = Residency(CPU, host_bytes=1000)


def test_what_windows_need_is_no_room() -> None:
    layout = make_layout()
    sizes = [layout.num_rows(shard) * 2 * WIDTH for shard in range(layout.num_shards)]
    held = ResidentShards(Budgets(0, sum(sizes) - 1, 0))
    held.fit(layout, 2 * WIDTH)
    assert held.window is not None
    resident = held.bytes_by_tier().get("host memory", 0)
    windows = 2 * held.window * max(sizes)
    assert windows > 0
    assert held.room_bytes == sum(sizes) - 1 - resident - windows


def planned_bytes() -> int:
    return measure_budgets(Residency(CPU), held_is_free=True).host_bytes


def test_what_is_held_counts_as_free_for_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 10_000
    monkeypatch.setattr(residency, "available_memory", lambda: free)
    # What earlier tests held may still be in a circle that nobody has looked for.
    monkeypatch.setattr(residency, "_all_held", weakref.WeakKeyDictionary())
    release_shards()
    with hold_shards(Residency(CPU)) as held:
        assert held.budgets.host_bytes == free // 2
        held.fit(layout := make_layout(), 2 * WIDTH)
        fill(held, layout)
        held.evaluated.open(1, lambda _: "validation", held.room_bytes)
        held.evaluated.put(0, {HIDDEN_STATES: torch.zeros(10)})
        taken = int(LENGTHS.sum()) * 2 * WIDTH + 40
        assert held.host_bytes == taken
        free -= taken
        assert planned_bytes() == held.budgets.host_bytes
        assert measure_budgets(Residency(CPU)).host_bytes == free // 2
    release_shards()
    del held
    assert planned_bytes() == free // 2


def test_what_is_held_is_kept_for_the_next_and_for_nobody_else() -> None:
    release_shards()
    with hold_shards(SMALL) as first, hold_shards(SMALL) as meanwhile:
        assert meanwhile is not first
    with hold_shards(replace(SMALL, needed_bytes=1)) as again:
        assert again is first
    with hold_shards(Residency(CPU, host_bytes=2000)) as other:
        assert other is not first
        assert other.budgets.host_bytes == 2000
    release_shards()
    with hold_shards(Residency(CPU, host_bytes=2000)) as fresh:
        assert fresh is not other
    release_shards()


def test_what_was_measured_beside_a_smaller_training_makes_room_for_a_larger_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10)  # by this process
    release_shards()
    gpu = Residency(torch.device("cuda", 0), host_bytes=1000)
    with hold_shards(replace(gpu, needed_bytes=20)) as first:
        assert first.budgets.device_bytes == 30
    for fewer in (10, 20):
        with hold_shards(replace(gpu, needed_bytes=fewer)) as again:
            assert again is first
    with hold_shards(replace(gpu, needed_bytes=60)) as other:
        assert other is not first
        assert other.budgets.device_bytes == 10
    release_shards()


def test_budgets_are_given_or_half_of_what_is_free() -> None:
    given = measure_budgets(Residency(CPU, False, 5, 6, 7))
    assert given == Budgets(0, 6, 7)
    measured = measure_budgets(Residency(CPU, store_is_local=False))
    assert measured.device_bytes == 0
    assert measured.host_bytes > 0
    assert measured.disk_bytes > 0
