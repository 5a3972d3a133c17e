"""Choices by hand."""

import itertools

import pytest

from afcore.cost import Prices
from afcore.planning.forecast import Resources, forecast_run
from afcore.planning.resources import (
    Alternative,
    MemoryModel,
    ResourceDecision,
    activation_bytes,
    choose_resources,
    choose_sequence,
    worker_counts,
)
from afcore.planning.timing import Profile
from tests.planning.test_scaling import RUN, with_workers

PRICES = Prices(3600.0, 0.0, 0.0, 0.0)  # a dollar for a worker's second
FAST_LINK = {"link_latency_seconds": 0.0, "link_bytes_per_second": 1e9}


def scalable() -> Profile:
    """A link that costs nothing; writing checkpoints takes 12 ms."""
    found = with_workers(**FAST_LINK)
    bandwidths = found.bandwidths.model_copy(update={"store_write": 1e6})
    return found.model_copy(update={"bandwidths": bandwidths})


def choose(boundary: int, read_boundary: int = 0, **changes: object) -> ResourceDecision:
    settings: dict[str, object] = {
        "profile": scalable(),
        "mode": "performance",
        "max_workers": 4,
        "batch_size": 12,
        "prices": PRICES,
    }
    settings |= changes
    found = settings.pop("profile")
    return choose_resources(found, RUN, boundary, read_boundary, **settings)


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
    assert [one.num_workers for one in found.alternatives] == [1, 2, 3, 4]
    # Statistics cost 0.5 s a step at boundary 0: 10 x 2.1 + 1200 / n x 41 ms, + evaluation.
    for one in found.alternatives:
        n = one.num_workers
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
    assert [(one.micro_batch, one.accumulation) for one in found.alternatives] == splits
    assert found.feasible


def test_what_fits_nowhere_is_said() -> None:
    memory = MemoryModel(limit_bytes=16_399, **MEMORY)
    found = choose(0, memory=memory)
    assert not found.feasible
    assert not any(one.fits for one in found.alternatives)
    assert "memory too small" in found.text()
    assert choose(3, memory=memory).feasible


def test_a_micro_batch_can_be_asked_for() -> None:
    found = choose(0, micro_batch=5)
    splits = [(one.micro_batch, one.accumulation) for one in found.alternatives]
    assert splits == [(4, 3), (3, 2), (4, 1), (3, 1)]


def alternative(num_workers: int, seconds: float, cost_usd: float) -> Alternative:
    return Alternative(
        num_workers=num_workers,
        micro_batch=1,
        accumulation=1,
        seconds=seconds,
        cost_usd=cost_usd,
        fits=True,
    )


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
    assert [one.num_workers for one in found.chosen] == workers
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
    relaxed = choose(0, epochs_left=2, deadline_seconds=2 * one)
    assert relaxed.num_workers == 1
    tight = choose(0, mode="efficiency", epochs_left=2, deadline_seconds=2 * four)
    assert (tight.num_workers, tight.feasible) == (4, True)
    late = choose(0, epochs_left=2, deadline_seconds=four)
    assert (late.num_workers, late.feasible) == (4, False)
    assert late.reachable_seconds == pytest.approx(2 * four)
    assert f"the best is ${late.reachable_usd:.4f} and {2 * four:.1f} s" in late.text()


def test_a_budget_takes_the_place_of_the_mode() -> None:
    cheapest = choose(0).alternatives[0].cost_usd
    assert choose(0, budget_usd=cheapest).num_workers == 1
    assert choose(0, budget_usd=1e6).num_workers == 4
    poor = choose(0, budget_usd=cheapest / 2)
    assert (poor.num_workers, poor.feasible) == (1, False)


def test_what_was_chosen_on_one_line() -> None:
    text = choose(3, 3, mode="efficiency").text()
    assert text.startswith("boundary 3, efficiency: 1 worker, micro-batch 12 x 1; predicted 16.")
    assert "[at most 3" in text
    assert "weighed 1: 16." in text
    assert "\n" not in text


def test_a_training_gives_workers_back() -> None:
    resources = Resources(max_workers=4, batch_size=12)
    trace = [[0, 3], [3, 3], [3, 3]]
    found = {
        mode: forecast_run(
            scalable(),
            RUN,
            trace,
            mode=mode,
            case="a test",
            cache_mode="auto",
            prices=PRICES,
            resources=resources,
        )
        for mode in ("full", "freeze", "cached", "performance", "efficiency")
    }
    counts = {mode: [e.num_workers for e in run.epochs] for mode, run in found.items()}
    assert counts["efficiency"] == [4, 1, 1]
    assert all(counts[mode] == [4, 4, 4] for mode in counts if mode != "efficiency")
    assert found["efficiency"].cost_usd < found["performance"].cost_usd
    assert found["efficiency"].seconds > found["performance"].seconds
    assert found["cached"].seconds == pytest.approx(found["performance"].seconds)
    assert found["cached"].epochs[1].read_boundary == 0  # four compute faster than each can open
    built = found["efficiency"].epochs[1]
    assert built.read_boundary == 3
    # Built by the four of the first epoch, all of it by the one that has its only shard.
    rest = built.train_seconds + built.other_seconds
    assert built.worker_seconds == pytest.approx(rest + 4 * built.materialize_seconds)


def test_a_deadline_is_shared_among_epochs() -> None:
    def run(deadline: float) -> tuple[list[int], float, bool]:
        found = forecast_run(
            scalable(),
            RUN,
            [[0], [0]],
            mode="efficiency",
            case="a test",
            cache_mode="auto",
            prices=PRICES,
            resources=Resources(max_workers=4, batch_size=12, deadline_seconds=deadline),
        )
        return [e.num_workers for e in found.epochs], found.seconds, found.feasible

    assert run(1e6)[0] == [1, 1]
    workers, seconds, feasible = run(90.0)
    assert feasible
    assert seconds <= 90.0
    assert workers == [3, 2]
    assert run(60.0)[2] is False
