"""Whole trainings, predicted from the figures of :mod:`.profiles`."""

from dataclasses import replace

import pytest

from afcore.cost import Prices
from afcore.planning.choose import choose_epoch
from afcore.planning.choose_workers import Allowed, Standing, choose_workers
from afcore.planning.run_forecast import RunForecast, forecast_boundaries, forecast_run
from tests.planning.profiles import PER_SECOND, RUN, four_workers, profile, scalable

# Suffix of an epoch with statistics: 5 s of them at boundary 0, none at 3 of 4 blocks.
EPOCH_AT_0, EPOCH_AT_3, PREFIX_AT_3 = 70.2, 15.2, 11.5


def forecast(trace: list[list[int]], mode: str = "cached", **changes: object) -> RunForecast:
    found, existing = changes.pop("profile", profile()), changes.pop("existing", ())
    start = Standing(1, changes.pop("num_epochs", len(trace)), trace[0][0])
    settings = {"sets": "off" if mode in ("full", "freeze") else "auto", "prices": PER_SECOND}
    allowed = Allowed(mode, **settings | changes)
    return forecast_run(found, RUN, allowed, trace, case="a test", start=start, existing=existing)


def test_full_never_reads_and_keeps_no_statistics() -> None:
    found = forecast([[0], [0]], "full")
    assert found.train_seconds == pytest.approx(2 * (EPOCH_AT_0 - 5.0))
    assert found.materialize_seconds == found.activation_bytes_written == 0
    # Validation twice and test once: 250 tokens x (0.4 + 4 x 2 ms); checkpoints of 12 kB at 1 kB/s.
    assert found.other_seconds == pytest.approx(250 * 0.0084 + 2 * 12.0)
    assert found.cost_usd == pytest.approx(found.seconds)


def test_freeze_runs_the_prefix_every_time() -> None:
    found = forecast([[0, 3], [3, 3]], "freeze")
    first = (EPOCH_AT_0 + EPOCH_AT_3 + PREFIX_AT_3) / 2
    assert [epoch.train_seconds for epoch in found.epochs] == pytest.approx(
        [first, EPOCH_AT_3 + PREFIX_AT_3]
    )
    assert [epoch.setup.boundaries[-1] for epoch in found.epochs] == [3, 3]


def test_cached_builds_once_and_reads() -> None:
    found = forecast([[0, 3], [3, 3], [3, 3]])
    assert [epoch.setup.read_boundary for epoch in found.epochs] == [0, 3, 3]
    assert [epoch.materialize_seconds for epoch in found.epochs] == pytest.approx([0, 8.4, 0])
    assert found.epochs[2].train_seconds == pytest.approx(EPOCH_AT_3 + 1.5)
    assert found.activation_bytes_written == 2000
    assert found.cost_usd == pytest.approx(found.seconds)


def test_a_set_that_does_not_pay_is_built_only_when_told_to() -> None:
    slow = profile(store_write=500.0)
    trace = [[0, 3], [3, 3]]
    assert forecast(trace, profile=slow).activation_bytes_written == 0
    assert forecast(trace, profile=slow, sets="on").epochs[1].setup.read_boundary == 3
    off = forecast(trace, sets="off")
    assert [epoch.setup.read_boundary for epoch in off.epochs] == [0, 0]
    assert off.train_seconds == pytest.approx(forecast(trace, "freeze").train_seconds)


def test_a_set_in_the_store_serves_only_what_froze_before_the_first_step() -> None:
    frozen_first = forecast([[3], [3]], existing=[3])
    assert frozen_first.materialize_seconds == 0
    assert [epoch.setup.read_boundary for epoch in frozen_first.epochs] == [3, 3]
    assert forecast([[0, 3], [3], [3]], existing=[3]).materialize_seconds > 0


def test_writing_is_paid_in_dollars_too() -> None:
    prices = Prices(0.0, 1e9, 1000.0, 0.0)
    found = forecast([[3], [3]], prices=prices)
    # 2000 bytes at a dollar each; 5 objects of the set, 12 checkpoint parts twice.
    assert found.cost_usd == pytest.approx(2000 + 5 + 2 * 12)


def test_a_boundary_that_falls_leaves_its_set_behind() -> None:
    found = forecast([[3], [1], [1]], profile=profile(store_write=4000.0))
    assert [epoch.setup.read_boundary for epoch in found.epochs] == [3, 1, 1]
    assert [epoch.materialize_seconds > 0 for epoch in found.epochs] == [True, True, False]
    unfrozen = forecast([[3], [0], [0]])
    assert [epoch.setup.read_boundary for epoch in unfrozen.epochs] == [3, 0, 0]
    assert [epoch.train_seconds for epoch in unfrozen.epochs] == pytest.approx(
        [EPOCH_AT_3 + 1.5, EPOCH_AT_0, EPOCH_AT_0]
    )
    # What thawed to 1 was never trained, so the store may have its set; what thawed to 0 was.
    assert forecast([[3], [1]], existing=[1]).epochs[1].materialize_seconds == 0
    assert forecast([[3], [0, 1], [1], [1]], existing=[1]).epochs[2].materialize_seconds > 0


def test_a_training_that_stops_was_planned_for_all_its_epochs() -> None:
    slow = profile(store_write=500.0)  # building takes 10.4 s and saves 10 s an epoch
    assert forecast([[3]], profile=slow).epochs[0].setup.read_boundary == 0
    stopped = forecast([[3]], profile=slow, num_epochs=2)
    assert stopped.epochs[0].setup.read_boundary == 3
    assert stopped.epochs[0].evaluate_seconds == pytest.approx(150 * 0.0084), "and tested"


@pytest.mark.parametrize("mode", ["cached", "performance", "efficiency"])
def test_an_epoch_is_chosen_as_it_is_when_the_one_before_ends(mode: str) -> None:
    allowed = four_workers(mode=mode, sets="auto")
    trace, start = [[0, 3], [3], [1], [1]], Standing(1, 4, 0, builders=4)
    found = forecast_run(scalable(), RUN, allowed, trace, case="a test", start=start)
    before = start
    for number, choice in enumerate(found.choices, start=1):
        at = replace(before, epoch=number, boundary=trace[number - 1][0])
        assert choice == choose_epoch(scalable(), RUN, allowed, at)
        done = found.epochs[number - 1].setup
        before = Standing(1, 4, 0, set_at_hand=done.read_boundary, builders=done.num_workers)


def test_the_head_is_solved_once() -> None:
    trace, allowed = [[2], [2]], Allowed("freeze", PER_SECOND)
    start = Standing(1, 2, 2, solves_head=True)
    solved = forecast_run(profile(), RUN, allowed, trace, case="a test", start=start)
    plain = forecast(trace, "freeze")
    more = [
        a.train_seconds - b.train_seconds for a, b in zip(solved.epochs, plain.epochs, strict=True)
    ]
    # 10 steps of 10 ms, and 1200 tokens x (0.5 ms + 4 blocks x 3 ms).
    assert more == pytest.approx([0.1 + 1200 * 0.0125, 0.0])


def test_an_epoch_at_each_boundary() -> None:
    rows = forecast_boundaries(profile(), RUN, Allowed("cached", PER_SECOND))
    assert [row.boundary for row in rows] == [0, 1, 2, 3]
    assert rows[0].read is None
    assert rows[0].computed.train_seconds == pytest.approx(EPOCH_AT_0)
    assert rows[3].computed.train_seconds == pytest.approx(EPOCH_AT_3 + PREFIX_AT_3)
    assert rows[3].read is not None
    assert rows[3].read.train_seconds == pytest.approx(EPOCH_AT_3 + 1.5)
    assert rows[3].read.materialize_seconds == pytest.approx(8.4)
    assert rows[3].read.activation_bytes_written == 2000
    assert [row.workers for row in rows] == [{}] * 4


@pytest.mark.parametrize(("sets", "reads"), [("auto", [0, 1, 2, 3]), ("off", [0] * 4)])
def test_each_boundary_is_what_would_be_chosen(sets: str, reads: list[int]) -> None:
    allowed = four_workers(sets=sets)
    rows = forecast_boundaries(scalable(), RUN, four_workers(sets=sets, deadline_seconds=1.0))
    for row, read_boundary in zip(rows, reads, strict=True):
        for mode, choice in row.workers.items():
            at = Standing(2, 3, row.boundary)
            wanted = replace(allowed, mode=mode)
            assert choice == choose_workers(scalable(), RUN, wanted, at, read_boundary)
    chosen = [[choice.num_workers for choice in row.workers.values()] for row in rows]
    assert chosen[0] == [4, 4]
    assert chosen[3][1] < 4
    assert rows[0].workers["efficiency"].limit_seconds == pytest.approx(
        rows[3].workers["efficiency"].limit_seconds
    )


def test_a_training_gives_workers_back() -> None:
    trace = [[0, 3], [3, 3], [3, 3]]
    found = {
        mode: forecast_run(
            scalable(),
            RUN,
            four_workers(mode=mode, sets="off" if mode == "full" else "auto"),
            trace if mode != "full" else [[0, 0]] * 3,
            case="a test",
            start=Standing(1, 3, 0, builders=4),
        )
        for mode in ("full", "cached", "performance", "efficiency")
    }
    counts = {mode: [e.setup.num_workers for e in run.epochs] for mode, run in found.items()}
    assert counts["efficiency"] == [4, 1, 1]
    assert all(counts[mode] == [4, 4, 4] for mode in counts if mode != "efficiency")
    assert found["efficiency"].cost_usd < found["performance"].cost_usd
    assert found["efficiency"].seconds > found["performance"].seconds
    assert found["cached"].seconds == pytest.approx(found["performance"].seconds)
    assert (
        found["cached"].epochs[1].setup.read_boundary == 0
    )  # four compute faster than each can open
    built = found["efficiency"].epochs[1]
    assert built.setup.read_boundary == 3
    # Built by the four of the first epoch, all of it by the one that has its only shard.
    rest = built.train_seconds + built.other_seconds
    assert built.worker_seconds == pytest.approx(rest + 4 * built.materialize_seconds)


def test_a_deadline_is_shared_among_epochs() -> None:
    def run(deadline: float) -> tuple[list[int], float, bool]:
        allowed = four_workers(mode="efficiency", deadline_seconds=deadline)
        start = Standing(1, 2, 0, builders=4)
        found = forecast_run(scalable(), RUN, allowed, [[0], [0]], case="a test", start=start)
        return [e.setup.num_workers for e in found.epochs], found.seconds, found.feasible

    assert run(1e6)[0] == [1, 1]
    workers, seconds, feasible = run(90.0)
    assert feasible
    assert seconds <= 90.0
    assert workers == [3, 2]
    assert run(60.0)[2] is False
