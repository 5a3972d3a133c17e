"""What the workers of an epoch agree on, and what is refused."""

from collections.abc import Callable

import fsspec
import numpy as np
import pytest

from afcore.activations import arrays
from afcore.activations.sets import list_sets
from afcore.distributed import ALONE, STEP_SECONDS, WorkerGroup
from afcore.errors import ConfigError
from afcore.launch.job import Job
from afcore.launch.local import LaunchLocally
from afcore.storage.backends.s3_reader import S3Reader
from afcore.storage.objects import Storage
from tests import distributed_workers as workers


def job(function: Callable[[], None]) -> Job:
    return Job(function, (), 2, "in epoch 1", threads=1)


def test_workers_that_differ_are_told_so() -> None:
    with pytest.raises(ConfigError, match="worker 1 has another data than worker 0"):
        LaunchLocally().run(job(workers.another_data))


def test_a_lease_that_the_first_worker_lost_is_lost_for_all() -> None:
    LaunchLocally().run(job(workers.lost_lease))


def test_a_worker_that_waits_for_a_shard_is_waited_for() -> None:
    LaunchLocally().run(Job(workers.late_for_a_step, (60.0,), 2, "in epoch 1", threads=1))


def test_a_worker_that_is_stuck_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match=r"^worker 0 of 2 failed in epoch 1: .*[Tt]imed out"):
        LaunchLocally().run(Job(workers.late_for_a_step, (1.0,), 2, "in epoch 1"))


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_a_step_is_given_the_time_of_the_longest_read() -> None:
    client = S3Reader(fsspec.filesystem("s3"))._client.meta.config
    asked = client.retries.get("total_max_attempts", 5)
    answer = asked * (client.connect_timeout + client.read_timeout)
    tries = arrays._again.stop.max_attempt_number
    assert tries * (answer + client.read_timeout) < STEP_SECONDS


def test_workers_that_are_alike_go_on() -> None:
    LaunchLocally().run(job(workers.same_data))


def test_workers_extend_a_set_together(local_storage: Storage) -> None:
    LaunchLocally().run(
        Job(workers.extend_a_set, (local_storage.root,), 2, "in epoch 1", threads=1)
    )
    for found in list_sets(local_storage):
        assert found.verify() == []


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_shares_make_up_the_batch_and_weights_its_mean(count: int, size: int) -> None:
    ids = np.arange(100, 100 + size)
    values = np.random.default_rng(0).normal(size=size)
    seen, mean = [], 0.0
    for rank in range(count):
        group = WorkerGroup(rank, count)
        share = group.share(ids)
        weight = group.weight(size, size, len(share))
        assert len(share) >= 1
        if weight:
            seen += share.tolist()
        mean += weight * values[share - 100].mean() / count
    assert sorted(seen) == ids.tolist()
    assert mean == pytest.approx(values.mean())


def test_one_worker_alone_stops_at_once() -> None:
    assert ALONE.wants_to_stop(True)
    assert not ALONE.wants_to_stop(False)
