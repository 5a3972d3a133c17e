"""Numbers of workers, by hand."""

import itertools

import pytest

from afcore.planning.choose_workers import (
    MemoryModel,
    Standing,
    WorkersChoice,
    activation_bytes,
    choose_sequence,
    choose_workers,
    worker_counts,
)
from afcore.planning.forecast import EpochSetup, Forecast
from tests.planning.profiles import FAST_LINK, RUN, four_workers, scalable, with_workers


def choose(boundary: int, read_boundary: int = 0, **changes: object) -> WorkersChoice:
    """Two epochs are left."""
    found = changes.pop("profile", scalable())
    at = Standing(epoch=2, num_epochs=3, boundary=boundary)
    return choose_workers(found, RUN, four_workers(**changes), at, read_boundary)


@pytest.mark.parametrize(
    ("batch_size", "most", "fewest", "counts"),
    [
        (12, 8, 1, [1, 2, 3, 4, 6]),
        (16, 2, 1, [1, 2]),
        (16, 3, 2, [2]),
        (2, 8, 1, [1, 2]),
        (7, 6, 1, [1]),
    ],
)
def test_counts_divide_the_global_batch(
    batch_size: int, most: int, fewest: int, counts: list[int]
) -> None:
    assert worker_counts(batch_size, most, fewest) == counts


def test_no_count_divides_the_global_batch() -> None:
    with pytest.raises(ValueError, match="from 2 to 6 divides the global batch of 7"):
        worker_counts(7, 6, 2)


def test_performance_takes_the_fastest() -> None:
    found = choose(0)
    assert [one.setup.num_workers for one in found.alternatives] == [1, 2, 3, 4]
    # Statistics cost 0.5 s a step at boundary 0: 10 x 2.1 + 1200 / n x 41 ms, + evaluation.
    for one in found.alternatives:
        n = one.setup.num_workers
        other = 0.012 + -(-100 // n) * 0.0084
        assert one.seconds == pytest.approx(21 + 49.2 / n + other, abs=1e-3)
        assert one.cost_usd == pytest.approx(n * one.seconds)
    assert found.num_workers == 4
    assert found.feasible


def test_a_slow_link_leaves_one_worker() -> None:
    slow = with_workers(link_latency_seconds=0.0, link_bytes_per_second=100.0)
    assert choose(0, profile=slow).num_workers == 1


def test_a_slow_start_leaves_one_worker() -> None:
    slow = with_workers(**FAST_LINK, startup_seconds=1000.0)
    assert choose(0, profile=slow).num_workers == 1


def test_efficiency_is_as_fast_as_unfrozen_on_all_workers() -> None:
    unfrozen = choose(0, mode="efficiency")
    assert unfrozen.num_workers == 4
    assert unfrozen.limit_seconds == pytest.approx(unfrozen.forecast.seconds)
    # Reading at boundary 3 one worker takes 16.7 s and 0.2 s of evaluation; 33.5 s are allowed.
    frozen = choose(3, 3, mode="efficiency")
    assert frozen.limit_seconds == unfrozen.limit_seconds
    assert frozen.num_workers == 1
    assert choose(3, 3).num_workers == 4
    # Between: 2 workers at boundary 2, whose epoch takes 68.8 s on one without a set.
    assert choose(2, mode="efficiency").num_workers == 2


@pytest.mark.parametrize("mode", ["full", "freeze", "cached"])
def test_other_modes_have_all_workers(mode: str) -> None:
    slow = with_workers(link_latency_seconds=0.0, link_bytes_per_second=1.0)
    assert choose(0, mode=mode, profile=slow).num_workers == 4


# 12 examples of 10 tokens: weights 4 kB, gradients and moments 12 kB, 4 x 10 bytes a token.
MEMORY = {"example_tokens": 10, "block_token_bytes": 10.0}


def test_memory_by_hand() -> None:
    memory = MemoryModel(limit_bytes=0, **MEMORY)
    parameters = [1000, 300, 200, 100]
    assert memory.needed_bytes(parameters, 0, 120) == 4000 + 12_000 + 120 * 4 * 10
    assert memory.needed_bytes(parameters, 3, 120) == 4000 + 1200 + 120 * 10
    # 34 h without the attention matrix: BERT-base.
    assert activation_bytes(768, 0, 512) == 26_112
    assert activation_bytes(768, 12, 512) == 26_112 + 5 * 12 * 512


@pytest.mark.parametrize(
    ("limit_bytes", "splits"),
    [
        (20_800, [(12, 1), (6, 1), (4, 1), (3, 1)]),
        (20_799, [(6, 2), (6, 1), (4, 1), (3, 1)]),
        (17_600, [(4, 3), (3, 2), (4, 1), (3, 1)]),
        (16_400, [(1, 12), (1, 6), (1, 4), (1, 3)]),
    ],
)
def test_batches_are_cut_to_fit(limit_bytes: int, splits: list[tuple[int, int]]) -> None:
    found = choose(0, memory=MemoryModel(limit_bytes=limit_bytes, **MEMORY))
    assert [(one.setup.micro_batch, one.setup.accumulation) for one in found.alternatives] == splits
    assert found.feasible


def test_what_fits_nowhere_is_said() -> None:
    memory = MemoryModel(limit_bytes=16_399, **MEMORY)
    found = choose(0, memory=memory)
    assert not found.feasible
    assert not any(one.setup.fits for one in found.alternatives)
    assert "memory too small" in found.text()
    assert choose(3, memory=memory).feasible


def test_a_micro_batch_can_be_asked_for() -> None:
    found = choose(0, micro_batch=5)
    splits = [(one.setup.micro_batch, one.setup.accumulation) for one in found.alternatives]
    assert splits == [(4, 3), (3, 2), (4, 1), (3, 1)]


def alternative(num_workers: int, seconds: float, cost_usd: float) -> Forecast:
    setup = EpochSetup(boundaries=[0], num_workers=num_workers)
    return Forecast(setup=setup, suffix_seconds=seconds, cost_usd=cost_usd)


EPOCHS = [
    [alternative(1, 40, 40), alternative(2, 25, 50), alternative(4, 20, 80)],
    [alternative(1, 30, 30), alternative(2, 18, 36), alternative(4, 13, 52)],
    [alternative(1, 10, 10), alternative(2, 9, 18), alternative(4, 9.5, 38)],
]


@pytest.mark.parametrize(
    ("limits", "workers", "feasible"),
    [
        ({"deadline_seconds": 80}, [1, 1, 1], True),
        # 12 s for 6 dollars beat 15 s for 10.
        ({"deadline_seconds": 68}, [1, 2, 1], True),
        ({"deadline_seconds": 66}, [2, 1, 1], True),
        ({"deadline_seconds": 42}, [4, 4, 2], True),
        ({"deadline_seconds": 41.9}, [4, 4, 2], False),
        ({"budget_usd": 80}, [1, 1, 1], True),
        ({"budget_usd": 90}, [2, 1, 1], True),
        ({"budget_usd": 79}, [1, 1, 1], False),
        ({"budget_usd": 1000}, [4, 4, 2], True),
        ({}, [4, 4, 2], True),
        ({"deadline_seconds": 68, "budget_usd": 86}, [1, 2, 1], True),
        ({"deadline_seconds": 68, "budget_usd": 85}, [1, 2, 1], False),
    ],
)
def test_a_whole_training(limits: dict[str, float], workers: list[int], feasible: bool) -> None:
    found = choose_sequence(EPOCHS, **limits)
    assert [one.setup.num_workers for one in found.chosen] == workers
    assert found.feasible is feasible
    assert found.seconds == pytest.approx(sum(one.seconds for one in found.chosen))


@pytest.mark.parametrize("deadline", [43, 45, 48, 52, 56, 60, 65, 70, 75])
def test_no_other_sequence_is_cheaper(deadline: float) -> None:
    best = min(
        sum(one.cost_usd for one in path)
        for path in itertools.product(*EPOCHS)
        if sum(one.seconds for one in path) <= deadline
    )
    found = choose_sequence(EPOCHS, deadline_seconds=deadline)
    assert found.cost_usd == pytest.approx(best)


def test_a_deadline_takes_the_place_of_the_mode() -> None:
    one, four = (choose(0).alternatives[at].seconds for at in (0, -1))
    relaxed = choose(0, deadline_seconds=2 * one)
    assert relaxed.num_workers == 1
    tight = choose(0, mode="efficiency", deadline_seconds=2 * four)
    assert (tight.num_workers, tight.feasible) == (4, True)
    late = choose(0, deadline_seconds=four)
    assert (late.num_workers, late.feasible) == (4, False)
    assert late.reachable_seconds == pytest.approx(2 * four)
    assert f"the best is ${late.reachable_usd:.4f} and {2 * four:.1f} s" in late.text()


def test_a_budget_takes_the_place_of_the_mode() -> None:
    cheapest = 2 * choose(0).alternatives[0].cost_usd
    assert choose(0, budget_usd=cheapest).num_workers == 1
    assert choose(0, budget_usd=1e6).num_workers == 4
    poor = choose(0, budget_usd=cheapest / 2)
    assert (poor.num_workers, poor.feasible) == (1, False)


def test_building_a_set_comes_off_a_deadline_and_a_budget() -> None:
    at = Standing(epoch=2, num_epochs=3, boundary=0, builders=3, spent_seconds=5.0, spent_usd=7.0)

    def left(**limit: float) -> WorkersChoice:
        return choose_workers(scalable(), RUN, four_workers(**limit), at, 0, building_seconds=2.0)

    assert left(deadline_seconds=100.0).deadline_seconds == pytest.approx(100 - 5 - 2)
    assert left(budget_usd=100.0).budget_usd == pytest.approx(100 - 7 - 3 * 2)


def test_what_was_chosen_on_one_line() -> None:
    text = choose(3, 3, mode="efficiency").text()
    assert text.startswith("boundary 3, efficiency: 1 worker, micro-batch 12 x 1; predicted 16.")
    assert "[at most 3" in text
    assert "weighed 1: 16." in text
    assert "\n" not in text
