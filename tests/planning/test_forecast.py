"""Epochs by hand, on one worker and on several, from the figures of :mod:`.profiles`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from afcore.cost import Prices
from afcore.planning.forecast import EpochSetup, Forecast, Work, build_seconds, forecast_epoch
from afcore.planning.profile import MachineLink, Profile, Reading, WorkerProfile
from tests.planning.profiles import (
    FREE,
    LINK,
    PER_SECOND,
    RUN,
    SHARD,
    WORK,
    profile,
    with_workers,
)


def parts(boundaries: list[int], read_boundary: int = 0, statistics: bool = False) -> list[float]:
    setup = EpochSetup(boundaries=boundaries, read_boundary=read_boundary)
    found = forecast_epoch(profile(), replace(WORK, statistics=statistics), setup)
    assert found.train_seconds == pytest.approx(
        found.prefix_seconds + found.suffix_seconds + found.read_seconds
    )
    return [found.prefix_seconds, found.suffix_seconds, found.read_seconds]


@pytest.mark.parametrize(
    ("boundary", "read_boundary", "prefix", "suffix", "read"),
    [
        # 10 steps x (0.1 + 1000 parameters x 1 ms + 0.5), 1200 tokens x (1 + 4 blocks x 10 ms).
        (0, 0, 0.0, 16.0 + 49.2, 0.0),
        # 10 x (0.1 + 0.3), 1200 x (1 + 3 x 10 ms); the prefix 10 x 10 ms, 1200 x (0.5 + 3 ms).
        (1, 0, 0.1 + 4.2, 4.0 + 37.2, 0.0),
        (3, 0, 0.1 + 1200 * 0.0095, 2.0 + 13.2, 0.0),
        # Above a set no embeddings; 2000 bytes at 2000 and at 4000 bytes a second.
        (3, 1, 0.1 + 1200 * 0.006, 2.0 + 13.2, 1.5),
        (3, 3, 0.0, 2.0 + 13.2, 1.5),
    ],
)
def test_an_epoch_by_hand(
    boundary: int, read_boundary: int, prefix: float, suffix: float, read: float
) -> None:
    assert parts([boundary], read_boundary) == pytest.approx([prefix, suffix, read])


def test_statistics_cost_by_parameter() -> None:
    # 10 steps x 1000 parameters x 0.5 ms.
    assert parts([0], statistics=True)[1] - parts([0])[1] == pytest.approx(5.0)


def test_a_boundary_that_moves_is_the_mean_of_its_parts() -> None:
    each = [parts([k])[1] for k in (0, 0, 1, 3)]
    assert parts([0, 0, 1, 3])[1] == pytest.approx(np.mean(each))


def test_building_from_tokens_and_from_the_set_below() -> None:
    # 1000 tokens x (0.4 + 3 x 2 ms) and 2000 bytes at 1000 a second.
    assert build_seconds(profile(), WORK, 3, 0) == pytest.approx(6.4 + 2)
    # One block fewer for each below, and one more reading of 2000 bytes at 2000 a second.
    assert build_seconds(profile(), WORK, 3, 2) == pytest.approx(2.4 + 2 + 1)


def test_every_shard_waits_for_the_store_once() -> None:
    slow = profile(store_latency_seconds=0.25, store_read=SHARD).bandwidths
    assert slow.fetch_seconds(2 * SHARD + 1) == pytest.approx(3 * 0.25 + 2)
    assert slow.fetch_seconds(0) == 0


def test_a_set_is_gathered_at_the_memory_s_speed_and_streamed_at_the_store_s() -> None:
    reading = Reading(8000, store_bytes=1000)
    # 2 s, and 1000 bytes from the store.
    assert profile().bandwidths.gather_seconds(reading) == pytest.approx(2)
    found = forecast_epoch(
        profile(), replace(WORK, reading=reading), EpochSetup(boundaries=[3], read_boundary=3)
    )
    assert found.read_seconds == pytest.approx(2 + 0.5)


def test_a_profile_of_an_earlier_release_is_read() -> None:
    record = profile().model_dump(mode="json")
    speeds = record["bandwidths"]
    speeds["tiers"] = {"host memory": speeds.pop("memory_read")}
    assert Profile.model_validate_json(json.dumps(record)) == profile()


def test_work_counts_padding() -> None:
    lengths = np.array([1, 4, 2, 3])
    work = Work.of(lengths, [np.array([0, 1]), np.array([2, 3])], hidden_bytes=8)
    assert work == Work(num_steps=2, padded_tokens=2 * 4 + 2 * 3, num_tokens=10, hidden_bytes=8)
    assert work.set_bytes == 80


def forecast(boundaries: list[int], num_workers: int, **changes: object) -> Forecast:
    found = changes.pop("profile", with_workers())
    prices, work = changes.pop("prices", FREE), changes.pop("work", RUN)
    setup = EpochSetup(boundaries=boundaries, num_workers=num_workers, **changes)
    return forecast_epoch(found, replace(work, statistics=False), setup, prices)


@pytest.mark.parametrize(
    ("num_workers", "num_parameters", "changes", "seconds"),
    [
        (1, 1000, {}, 0.0),
        # 2 (n - 1) / n x 4000 bytes at 4000 a second; 2 (n - 1) steps of 10 ms.
        (2, 1000, {}, 1.0 + 0.02),
        (4, 1000, {}, 1.5 + 0.06),
        (4, 100, {}, 0.15 + 0.06),
        (4, 1000, {"overlap": 0.5}, 0.75 + 0.03),
        (4, 1000, {"gradient_bytes": 2}, 0.75 + 0.06),
        # 25 MiB and 4 bytes more: a second bucket, and its latency once more.
        (2, 25 * 2**18 + 1, {"link_bytes_per_second": 25 * 2**20 + 4}, 1.0 + 2 * 0.02),
    ],
)
def test_an_all_reduce(
    num_workers: int, num_parameters: int, changes: dict[str, float], seconds: float
) -> None:
    workers = WorkerProfile.model_validate(LINK | changes)
    assert workers.allreduce_seconds(num_parameters, num_workers) == pytest.approx(seconds)


def test_workers_of_one_machine_have_its_link() -> None:
    machine = MachineLink(num_workers=2, latency_seconds=0.0, bytes_per_second=40_000.0)
    workers = WorkerProfile.model_validate(LINK | {"machine": machine})
    assert workers.allreduce_seconds(1000, 2) == pytest.approx(0.1)
    assert workers.allreduce_seconds(1000, 4) == pytest.approx(1.56)


@pytest.mark.parametrize(
    ("num_workers", "slowdown"), [(1, 1.0), (2, 1.5), (3, 2.0), (4, 2.5), (8, 2.5)]
)
def test_contention_is_interpolated_and_then_stays(num_workers: int, slowdown: float) -> None:
    workers = WorkerProfile.model_validate(LINK | {"contention": {2: 1.5, 4: 2.5}})
    assert workers.slowdown(num_workers) == pytest.approx(slowdown)


def test_machines_do_not_disturb_each_other() -> None:
    machine = MachineLink(num_workers=2, latency_seconds=0.0, bytes_per_second=1.0)
    contention = {2: 1.5, 4: 2.5}
    workers = WorkerProfile.model_validate(LINK | {"contention": contention, "machine": machine})
    assert workers.slowdown(4) == pytest.approx(1.5)


@pytest.mark.parametrize("boundaries", [[0], [0, 3]])
def test_one_worker_needs_no_link(boundaries: list[int]) -> None:
    without = forecast(boundaries, 1, profile=profile())
    assert without == forecast(boundaries, 1)
    assert without.allreduce_seconds == without.startup_seconds == 0


def test_several_workers_without_a_link_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="nothing is known of 2 workers"):
        forecast([0], 2, profile=profile())


def test_tokens_are_shared_and_steps_are_not() -> None:
    found = forecast([0], 4)
    # 10 steps x (0.1 + 1000 x 1 ms + 0.5), 300 of 1200 tokens x (1 + 4 x 10 ms).
    assert found.suffix_seconds == pytest.approx(10 * 1.6 + 300 * 0.041)
    assert found.allreduce_seconds == pytest.approx(10 * 1.56)
    # 25 of 100 tokens; the checkpoint of 12 kB at 1 kB/s is one worker's.
    assert found.evaluate_seconds == pytest.approx(25 * 0.0084)
    assert found.checkpoint_seconds == pytest.approx(12.0)


def test_only_what_trains_is_exchanged() -> None:
    found = forecast([3], 4)
    assert found.allreduce_seconds == pytest.approx(10 * (0.15 + 0.06))
    mixed = forecast([0, 3], 4)
    assert mixed.allreduce_seconds == pytest.approx(10 * (1.56 + 0.21) / 2)


def test_a_set_is_opened_by_each_and_gathered_by_all() -> None:
    # 2000 bytes at 4000 a second from memory, 2000 at 2000 from the store.
    assert forecast([3], 1, read_boundary=3).read_seconds == pytest.approx(0.5 + 1.0)
    assert forecast([3], 4, read_boundary=3).read_seconds == pytest.approx(0.125 + 1.0)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        # 100 tokens x (0.4 + 4 x 2 ms), or one block of four.
        ({"read_boundary": 0}, 0.84),
        ({"read_boundary": 3}, 0.2),
        ({"read_boundary": 3, "last": True}, 0.2 + 0.42),
        ({"read_boundary": 3, "first": True}, 0.84),
        ({"read_boundary": 3, "built_from": 0}, 0.84),
    ],
)
def test_an_evaluation_finds_the_prefix_of_one_before(
    changes: dict[str, object], seconds: float
) -> None:
    assert forecast([3], 1, **changes).evaluate_seconds == pytest.approx(seconds)
    launched = with_workers(startup_here_seconds=None)  # ends with its epoch
    from_tokens = 0.84 + (0.42 if "last" in changes else 0.0)
    found = forecast([3], 1, **changes, profile=launched)
    assert found.evaluate_seconds == pytest.approx(from_tokens)
    assert forecast([3], 2, **changes).evaluate_seconds == pytest.approx(from_tokens / 2)


def test_micro_batches_repeat_what_a_pass_costs() -> None:
    once, thrice = forecast([0], 2), forecast([0], 2, accumulation=3)
    assert thrice.suffix_seconds - once.suffix_seconds == pytest.approx(10 * 2 * (0.1 + 0.5))
    assert thrice.allreduce_seconds == once.allreduce_seconds
    frozen, again = forecast([3], 2), forecast([3], 2, accumulation=3)
    assert again.suffix_seconds - frozen.suffix_seconds == pytest.approx(10 * 2 * 0.1)
    assert again.prefix_seconds == frozen.prefix_seconds, "it runs once a step"


def test_a_busy_machine_computes_slower_and_reads_as_fast() -> None:
    found = forecast([3], 2, read_boundary=3, profile=with_workers(contention={2: 2.0}))
    alone = forecast([3], 2, read_boundary=3)
    assert found.suffix_seconds == pytest.approx(2 * alone.suffix_seconds)
    assert found.evaluate_seconds == pytest.approx(2 * alone.evaluate_seconds)
    assert found.read_seconds == alone.read_seconds


@pytest.mark.parametrize(("num_workers", "share"), [(1, 1.0), (2, 2 / 3), (3, 1 / 3), (64, 1 / 3)])
def test_a_set_is_built_in_whole_shards(num_workers: int, share: float) -> None:
    # 2000 bytes in shards of 800: three.
    bandwidths = profile().bandwidths.model_copy(update={"shard_bytes": 800})
    found = with_workers().model_copy(update={"bandwidths": bandwidths})
    # 1000 tokens x (0.4 + 3 x 2 ms), and writing 2000 bytes at 1000 a second.
    seconds = build_seconds(found, WORK, 3, 0, num_workers)
    assert seconds == pytest.approx(share * (6.4 + 2.0))


def test_all_workers_are_paid_while_one_works() -> None:
    slow_start = with_workers(startup_seconds=3.0, startup_worker_seconds=0.5)
    found = forecast([3], 4, profile=slow_start, prices=PER_SECOND)
    assert found.startup_seconds == pytest.approx(3.0 + 4 * 0.5)
    assert found.worker_seconds == pytest.approx(4 * found.seconds)
    assert found.cost_usd == pytest.approx(4 * found.seconds)


@pytest.mark.parametrize(("here", "seconds"), [(0.25, 0.25), (None, 3.5)])
def test_one_worker_opens_the_model_too(here: float | None, seconds: float) -> None:
    start = {"startup_seconds": 3.0, "startup_worker_seconds": 0.5, "startup_here_seconds": here}
    found = forecast([3], 1, profile=with_workers(**start), prices=PER_SECOND)
    assert found.startup_seconds == seconds
    assert found.cost_usd == pytest.approx(found.seconds)


def test_those_who_built_a_set_are_paid_for_it() -> None:
    built = forecast([3], 1, read_boundary=3, built_from=0, builders=4, prices=PER_SECOND)
    read = forecast([3], 1, read_boundary=3, prices=PER_SECOND)
    assert built.materialize_seconds == pytest.approx(8.4)  # one shard: three workers wait
    evaluated = 0.84 - 0.2  # of the prefix, for the first time
    assert built.seconds == pytest.approx(read.seconds + 8.4 + evaluated)
    assert built.cost_usd == pytest.approx(read.cost_usd + 4 * 8.4 + evaluated)
    assert (built.activation_bytes_written, read.activation_bytes_written) == (2000, 0)


def test_each_worker_opens_the_set() -> None:
    prices = Prices(0.0, 0.0, 0.0, 1000.0)  # a dollar for each read
    one, four = (forecast([3], n, read_boundary=3, prices=prices).cost_usd for n in (1, 4))
    assert one == pytest.approx(5 + 12)  # the set's objects, and the checkpoint's
    assert four == pytest.approx(4 * 5 + 12)
    egress = Prices(0.0, 0.0, 0.0, 0.0, egress_usd_per_gb=1e9)  # a dollar for each byte
    assert forecast([3], 4, read_boundary=3, prices=egress).cost_usd == pytest.approx(4 * 2000)
    assert forecast([3], 4, prices=egress).cost_usd == 0


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_solving_the_head_runs_every_block_and_reads_the_set_on_a_share_of_the_batches(
    share: float,
) -> None:
    work = replace(RUN, solved_share=share)
    plain, solved = (
        forecast([2], 2, work=work, read_boundary=2),
        forecast([2], 2, work=work, read_boundary=2, solves_head=True),
    )
    # 10 steps of 10 ms, half of 1200 tokens x 2 blocks x 3 ms; 1000 bytes at 4000 a second.
    assert solved.prefix_seconds - plain.prefix_seconds == pytest.approx(
        share * (0.1 + 600 * 0.006)
    )
    assert solved.read_seconds - plain.read_seconds == pytest.approx(share * 0.25)
    assert solved.suffix_seconds == plain.suffix_seconds


def test_a_boundary_that_falls_at_the_end_adds_the_moments_of_what_thaws() -> None:
    stays, falls = forecast([3], 1), forecast([3, 1], 1)
    # 8 bytes of 300 parameters instead of 100, at 1000 bytes a second.
    assert falls.checkpoint_seconds - stays.checkpoint_seconds == pytest.approx(8 * 200 / 1000)
