"""What the workers of an epoch agree on, and what is refused."""

from collections.abc import Callable

import fsspec
import numpy as np
import pytest

from afcore.activations import arrays
from afcore.config import parse_config
from afcore.distributed import ALONE, STEP_SECONDS, WorkerGroup
from afcore.errors import AutoFreezeError, ConfigError
from afcore.launch.job import Job
from afcore.launch.local import LaunchLocally
from afcore.runs import launch_epoch as epoch_module
from afcore.runs.launch_epoch import workers_left
from afcore.storage.s3 import S3Reader
from tests.launch import functions_group


def job(function: Callable[[], None]) -> Job:
    return Job(function, (), 2, "in epoch 1", threads=1)


def test_workers_that_differ_are_told_so() -> None:
    with pytest.raises(ConfigError, match="worker 1 has another data than worker 0"):
        LaunchLocally().run(job(functions_group.another_data))


def test_a_lease_that_the_first_worker_lost_is_lost_for_all() -> None:
    LaunchLocally().run(job(functions_group.lost_lease))


def test_a_plan_below_the_least_is_kept() -> None:
    # What was planned stands, though workers.min was raised since.
    assert workers_left(config(min=2), 1, 1) == 1


def test_a_worker_that_waits_for_a_shard_is_waited_for() -> None:
    LaunchLocally().run(Job(functions_group.late_for_a_step, (60.0,), 2, "in epoch 1", threads=1))


def test_a_worker_that_is_stuck_is_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match=r"^worker 0 of 2 failed in epoch 1: .*[Tt]imed out"):
        LaunchLocally().run(Job(functions_group.late_for_a_step, (1.0,), 2, "in epoch 1"))


@pytest.mark.s3
@pytest.mark.usefixtures("s3_endpoint")
def test_a_step_is_given_the_time_of_the_longest_read() -> None:
    client = S3Reader(fsspec.filesystem("s3"))._client.meta.config
    asked = client.retries.get("total_max_attempts", 5)
    answer = asked * (client.connect_timeout + client.read_timeout)
    tries = arrays._again.stop.max_attempt_number
    assert tries * (answer + client.read_timeout) < STEP_SECONDS


def test_workers_that_are_alike_go_on() -> None:
    LaunchLocally().run(job(functions_group.same_data))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_shares_make_up_the_batch_and_weights_its_mean(count: int, size: int) -> None:
    ids = np.arange(100, 100 + size)
    values = np.random.default_rng(0).normal(size=size)
    seen, mean = [], 0.0
    for rank in range(count):
        group = WorkerGroup(rank, count)
        share = group.share(ids)
        weight = group.weight(size, len(share))
        assert len(share) >= 1
        if weight:
            seen += share.tolist()
        mean += weight * values[share - 100].mean() / count
    assert sorted(seen) == ids.tolist()
    assert mean == pytest.approx(values.mean())


def test_one_worker_alone_stops_at_once() -> None:
    assert ALONE.wants_to_stop(True)
    assert not ALONE.wants_to_stop(False)


@pytest.mark.parametrize(
    ("planned", "tries", "devices", "expected"),
    [(8, 1, 8, 8), (8, 2, 8, 8), (8, 3, 8, 4), (8, 2, 5, 4), (4, 2, 3, 2), (1, 3, 8, 1)],
)
def test_a_retry_takes_what_is_left(
    planned: int, tries: int, devices: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_module, "num_devices", lambda: devices)
    assert workers_left(config(min=1), planned, tries) == expected


def test_fewer_than_the_least_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_module, "num_devices", lambda: 3)
    with pytest.raises(AutoFreezeError, match=r"3 workers are left, and workers.min is 4"):
        workers_left(config(min=4), 8, 2)


def config(**workers: int):  # type: ignore[no-untyped-def]
    tree = {
        "model": {"name": "m"},
        "data": {"train": "t"},
        "training": {"batch_size": 16},
        "workers": {"max": 8, **workers},
    }
    return parse_config(tree, source="test")
