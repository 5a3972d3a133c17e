"""Described clusters by hand, and what a simulation makes of them."""

import pytest

from afcore.cost import Prices
from afcore.planning.described import Cluster, Link, Store, Workload, describe
from afcore.planning.forecast import EpochSetup, forecast_epoch
from afcore.planning.simulate import MODES, scale_trace, simulate

CLUSTER = Cluster(
    name="a cluster",
    about="made up",
    num_nodes=2,
    gpus_per_node=2,
    gpu_flops=1000.0,
    gpu_memory_bytes=1e9,
    gpu_memory_bytes_per_second=1e6,
    node_link=Link(latency_seconds=0.0, bytes_per_second=1e9),
    network=Link(latency_seconds=0.5, bytes_per_second=100.0),
    host_memory_bytes=1000,
    host_bytes_per_second=1e6,
    store=Store(latency_seconds=0.0, read_bytes_per_second=1e6, write_bytes_per_second=1e6),
    startup_seconds=1.0,
    shard_bytes=100,
)
WORKLOAD = Workload(
    name="a workload",
    about="made up",
    num_blocks=4,
    hidden_size=5,
    block_parameters=100,
    embedding_parameters=50,
    head_parameters=10,
    mean_tokens=8,
    padded_tokens=10,
    max_length=12,
    examples=120,
    batch_size=12,
)
PRICES = Prices(3600.0, 0.0, 0.0, 0.0)
TRACE = [[0, 3], [3, 3], [3, 3]]


def test_operations_become_seconds() -> None:
    profile, work, allowed = describe(CLUSTER, WORKLOAD, 12, PRICES)
    compute = profile.compute
    assert compute.num_parameters == [460, 310, 210, 110]
    # 2 x 100 parameters + 4 x 10 tokens x 5: 400 operations forward at 1000 a second.
    assert compute.prefix_block_token == compute.inference_block_token == pytest.approx(0.4)
    assert compute.suffix_block_token == pytest.approx(1.2)
    # Weight and moments read and written, the gradient read; a sum read and written, and again.
    assert compute.update == pytest.approx((2 * 4 + 4 + 2 * 8) / 1e6)
    assert compute.statistics == pytest.approx(12 / 1e6)
    assert (work.num_steps, work.padded_tokens) == (10, 1200)
    assert work.set_bytes == 120 * 8 * 2 * 5
    assert work.reading.store_bytes == 9600 - 1000
    assert allowed.max_workers == 4


def test_rings_that_fit_a_node_use_its_link() -> None:
    profile, work, _ = describe(CLUSTER, WORKLOAD, 12, PRICES)

    def exchange(num_workers: int) -> float:
        setup = EpochSetup(boundaries=[0], num_workers=num_workers)
        return forecast_epoch(profile, work, setup).allreduce_seconds

    assert exchange(2) == pytest.approx(10 * 1840 / 1e9)
    # 2 x 3 / 4 of 4 x 460 bytes at 100 a second, 6 steps of half a second.
    assert exchange(4) == pytest.approx(10 * (27.6 + 3.0))


@pytest.mark.parametrize(
    ("recorded", "blocks", "scaled"),
    [
        (4, 4, [[0, 1], [2, 3]]),
        (4, 12, [[0, 3], [7, 11]]),
        (4, 2, [[0, 0], [0, 1]]),
    ],
)
def test_boundaries_keep_their_share(recorded: int, blocks: int, scaled: list[list[int]]) -> None:
    assert scale_trace([[0, 1], [2, 3]], recorded, blocks) == scaled


def test_a_model_of_one_block_froze_nothing() -> None:
    assert scale_trace([[0], [0]], 1, 12) == [[0], [0]]


def test_all_modes_on_one_worker_up_to_all() -> None:
    found = simulate(CLUSTER, WORKLOAD, TRACE, 4, PRICES)
    assert [(run.mode, run.max_workers) for run in found.runs] == [
        (mode, count) for mode in MODES for count in (1, 2, 3, 4)
    ]
    assert found.notes == []
    full = found.of("full")
    assert (full.speedup, full.saving, full.max_workers) == (1.0, 1.0, 4)
    assert full.epoch_workers == [4, 4, 4]
    assert sum(full.epoch_seconds) == pytest.approx(full.seconds)
    best = found.of("performance")
    assert all(best.seconds <= run.seconds + 1e-9 for run in found.runs)
    cheap = found.of("efficiency")
    assert cheap.cost_usd < best.cost_usd
    assert all(seconds <= full.epoch_seconds[0] * 1.01 for seconds in cheap.epoch_seconds)
    assert max(found.of("cached").read_boundaries) == 3


def test_other_blocks_and_another_batch_are_said() -> None:
    found = simulate(CLUSTER, WORKLOAD, TRACE, 8, PRICES, batch_size=2)
    assert found.trace == [[0, 1], [1, 1], [1, 1]]
    assert "recorded on 8 blocks" in found.notes[0]
    assert {run.max_workers for run in found.runs} == {1, 2}
    assert found.batch_size == 2


def test_what_memory_does_not_hold_is_marked() -> None:
    small = CLUSTER.model_copy(update={"gpu_memory_bytes": 5000.0})
    found = simulate(small, WORKLOAD, TRACE, 4, PRICES)
    assert not found.of("full").fits
    assert all(run.fits for run in simulate(CLUSTER, WORKLOAD, TRACE, 4, PRICES).runs)
