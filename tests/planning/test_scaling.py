"""Epochs on several workers by hand, from the figures of tests.planning.test_source.py."""

import pytest

from afcore.cost import Prices
from afcore.planning.scaling import (
    Build,
    MachineLink,
    RunWork,
    WorkerProfile,
    WorkersForecast,
    build_seconds_on,
    forecast_workers,
)
from afcore.planning.timing import Profile
from tests.planning.test_source import READING, WORK, profile

FREE = Prices(0.0, 0.0, 0.0, 0.0)
PER_SECOND = Prices(3600.0, 0.0, 0.0, 0.0)
RUN = RunWork(WORK, READING, validation_tokens=100, test_tokens=50, statistics=True)
# 4000 bytes of gradients at boundary 0, 400 at 3; one bucket.
LINK = {"link_latency_seconds": 0.01, "link_bytes_per_second": 4000.0}


def with_workers(**changes: object) -> Profile:
    workers = WorkerProfile.model_validate(LINK | changes)
    return profile().model_copy(update={"workers": workers})


def forecast(boundaries: list[int], num_workers: int, **changes: object) -> WorkersForecast:
    settings: dict[str, object] = {
        "profile": with_workers(),
        "read_boundary": 0,
        "statistics": False,
        "prices": FREE,
    }
    settings |= changes
    found = settings.pop("profile")
    return forecast_workers(found, RUN, boundaries, num_workers=num_workers, **settings)


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
    assert without.allreduce_seconds == without.startup_seconds == without.allreduce_bytes == 0


def test_several_workers_without_a_link_are_not_guessed() -> None:
    with pytest.raises(ValueError, match="nothing is known of 2 workers"):
        forecast([0], 2, profile=profile())


def test_tokens_are_shared_and_steps_are_not() -> None:
    found = forecast([0], 4)
    # 10 steps x (0.1 + 1000 x 1 ms + 0.5), 300 of 1200 tokens x (1 + 4 x 10 ms).
    assert found.suffix_seconds == pytest.approx(10 * 1.6 + 300 * 0.041)
    assert found.allreduce_seconds == pytest.approx(10 * 1.56)
    assert found.allreduce_bytes == 4000
    # 25 of 100 tokens; the checkpoint of 12 kB at 1 kB/s is one worker's.
    assert found.evaluate_seconds == pytest.approx(25 * 0.0084)
    assert found.checkpoint_seconds == pytest.approx(12.0)


def test_only_what_trains_is_exchanged() -> None:
    found = forecast([3], 4)
    assert found.allreduce_bytes == 400
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
        ({"read_boundary": 3, "build": Build(3, 0, 1)}, 0.84),
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
    seconds = build_seconds_on(found, WORK, 3, 0, num_workers)
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
    built = forecast([3], 1, read_boundary=3, build=Build(3, 0, 4), prices=PER_SECOND)
    read = forecast([3], 1, read_boundary=3, prices=PER_SECOND)
    assert built.materialize_seconds == pytest.approx(8.4)  # one shard: three workers wait
    evaluated = 0.84 - 0.2  # of the prefix, for the first time
    assert built.seconds == pytest.approx(read.seconds + 8.4 + evaluated)
    assert built.cost_usd == pytest.approx(read.cost_usd + 4 * 8.4 + evaluated)
    assert (built.set_bytes_written, read.set_bytes_written) == (2000, 0)


def test_each_worker_opens_the_set() -> None:
    prices = Prices(0.0, 0.0, 0.0, 1000.0)  # a dollar for each read
    one, four = (forecast([3], n, read_boundary=3, prices=prices).cost_usd for n in (1, 4))
    assert one == pytest.approx(5 + 12)  # the set's objects, and the checkpoint's
    assert four == pytest.approx(4 * 5 + 12)
    egress = Prices(0.0, 0.0, 0.0, 0.0, egress_usd_per_gb=1e9)  # a dollar for each byte
    assert forecast([3], 4, read_boundary=3, prices=egress).cost_usd == pytest.approx(4 * 2000)
    assert forecast([3], 4, prices=egress).cost_usd == 0
