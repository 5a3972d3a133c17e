"""What whole epochs read from the store, and in which order, with little memory and after restarts.

A set of some shards, a store on S3 where bytes count, no Prefect.
"""

import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pytest

from afcore.activations import layout as layout_module
from afcore.activations import writer as writer_module
from afcore.activations.residency import release_shards
from afcore.activations.sets import list_sets
from afcore.config import Config, parse_config
from afcore.results.report import EpochReport
from afcore.runs import cache as cache_module
from afcore.runs import run as runs
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.records import CheckpointRecord, EpochStart, record_of
from afcore.runs.run import Run, begin_run, open_run, run_lease
from afcore.storage.objects import Storage
from tests.conftest import BUCKET

SHARD_BYTES = 4096


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plan = partial(layout_module.plan_layout, shard_bytes=SHARD_BYTES)
    monkeypatch.setattr(writer_module, "plan_layout", plan)
    monkeypatch.setattr(cache_module, "plan_layout", plan)
    release_shards()
    yield
    release_shards()


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    config = parse_config(tiny_config, source="test")
    return config.replace(
        **{"freezing.policy": "static", "freezing.depth": 2, "data.validation": 0.3}
    )


class CountingStorage(Storage):
    """Counts how often each object was read, over all storages of a test."""

    reads: ClassVar[Counter[str]] = Counter()

    def get_into(self, key: str, *arguments: Any) -> int:
        self.reads[key] += 1
        return super().get_into(key, *arguments)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    monkeypatch.setattr(runs, "Storage", CountingStorage)
    CountingStorage.reads = Counter()
    return CountingStorage.reads


def run_epochs(config: Config, epochs: list[int]) -> list[EpochReport]:
    """As the flow's tasks do it: each opens the run anew."""
    storage = Storage(config.store)
    with run_lease(storage, identify_run(config, storage).run_id, since=time.monotonic()) as lease:
        run = begin_run(storage, identify_run(config, storage))
        run_id = run.record.run_id
        return [run_epoch(open_run(config.store, run_id), e, lease.number) for e in epochs]


def shard_reads(reads: Counter[str]) -> dict[str, int]:
    return {key: count for key, count in reads.items() if "/shards/" in key}


@pytest.mark.s3
def test_no_shard_is_read_twice_while_memory_and_disk_hold_the_set(
    config: Config, s3_endpoint: str, reads: Counter[str]
) -> None:
    config = config.replace(
        **{
            "store": f"s3://{BUCKET}/tiers-{time.time_ns()}",
            "cache.host_bytes": 12 * SHARD_BYTES,
            "cache.disk_bytes": 10**6,
        }
    )
    first, second = run_epochs(config, [1, 2])
    (found,) = list_sets(Storage(config.store))
    num_shards = found.layout.num_shards
    assert num_shards > 14
    # The set was built for the first epoch: not one shard of it is read back.
    assert shard_reads(reads) == {}
    assert set(first.tier_bytes) == {"host memory", "local disk"}
    assert first.activation_bytes_read == found.manifest.num_bytes
    assert second.store_bytes_read < found.manifest.num_bytes / 4

    release_shards()  # as in a new process
    (third,) = run_epochs(config, [3])
    assert set(shard_reads(reads).values()) == {1}
    assert len(shard_reads(reads)) == num_shards
    assert third.store_bytes_read >= found.manifest.num_bytes


@pytest.mark.s3
def test_a_set_found_in_the_store_is_read_once_in_three_epochs(
    config: Config, s3_endpoint: str, reads: Counter[str]
) -> None:
    config = config.replace(store=f"s3://{BUCKET}/tiers-{time.time_ns()}")
    run_epochs(config, [1])
    reads.clear()
    release_shards()
    reports = run_epochs(config.replace(**{"training.seed": 7}), [1, 2, 3])
    # Another seed: another head, but the same frozen prefix.
    assert [record.activation_bytes_written for record in reports] == [0, 0, 0]
    assert set(shard_reads(reads).values()) == {1}


def test_a_set_larger_than_memory_is_read_in_windows_and_the_plan_says_so(config: Config) -> None:
    config = config.replace(**{"cache.host_bytes": 8 * SHARD_BYTES})
    records = run_epochs(config, [1, 2])
    assert [record.order for record in records] == ["windowed", "windowed"]
    assert set(records[0].tier_bytes) == {"host memory", "local disk"}
    plan = _record(config, EpochStart)
    assert plan.window_shards is not None


def test_a_plan_holds_on_a_machine_with_more_memory(config: Config) -> None:
    losses = []
    for store, second_budget in (("a", 8 * SHARD_BYTES), ("b", 10**9)):
        little = config.replace(
            **{"store": f"{config.store}-{store}", "cache.host_bytes": 8 * SHARD_BYTES}
        )
        run_epochs(little, [1])
        run = _run(little)
        for name in ("checkpoint", "report"):  # killed in the midst of epoch 1
            run.storage.delete(run.epoch_key(1, name))
        release_shards()
        much = little.replace(**{"cache.host_bytes": second_budget})
        assert _run(much).record.run_id == run.record.run_id
        (again,) = run_epochs(much, [1])
        assert again.order == "windowed"
        losses.append(_losses(much))
    assert losses[0] == losses[1]
    run_epochs(config, [1])
    assert len(_losses(config)) == len(losses[0])
    assert _losses(config) != losses[0]


def _losses(config: Config) -> list[float]:
    return [step.loss for step in _record(config, CheckpointRecord).trained.steps]


def _run(config: Config) -> Run:
    storage = Storage(config.store)
    return open_run(config.store, identify_run(config, storage).run_id)


def _record(config: Config, kind: type[Any]) -> Any:
    return record_of(_run(config), 1, kind)
