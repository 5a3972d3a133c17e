"""Durations that are no whole number of epochs, and the rates over them."""

import pytest

from afcore.training.schedule import Schedule


@pytest.mark.parametrize(
    ("epochs", "total", "in_each"),
    [(0.5, 5, [5]), (1, 10, [10]), (2.25, 23, [10, 10, 3]), (0.01, 1, [1]), (3.0, 30, [10] * 3)],
)
def test_steps_of_a_duration(epochs: float, total: int, in_each: list[int]) -> None:
    schedule = Schedule(epochs, steps_per_epoch=10)

    assert schedule.total_steps == total
    assert [schedule.steps_in(epoch) for epoch in range(1, schedule.num_epochs + 1)] == in_each


def test_the_schedule_is_compressed_to_the_duration() -> None:
    assert [Schedule(0.5, 10).factor(step) for step in (0, 4)] == [1.0, pytest.approx(0.2)]
    assert Schedule(0.5, 10, warmup_ratio=0.4).factor(0) == 0.5


def test_floating_point_adds_no_step() -> None:
    assert Schedule(0.1 * 3, 10).total_steps == 3


def test_each_cycle_has_the_whole_schedule_and_the_last_may_be_short() -> None:
    schedule = Schedule(2.5, steps_per_epoch=2, cycle_epochs=1)
    assert [schedule.factor(step) for step in range(5)] == [1.0, 0.5, 1.0, 0.5, 1.0]
    assert [schedule.ends_cycle(epoch) for epoch in (1, 2, 3)] == [True, True, True]
    pairs = Schedule(5, steps_per_epoch=1, cycle_epochs=2)
    assert [pairs.factor(step) for step in range(5)] == [1.0, 0.5, 1.0, 0.5, 1.0]
    assert [pairs.cycle_share(epoch) for epoch in range(1, 6)] == [0.5, 1.0, 0.5, 1.0, 1.0]
    assert [pairs.ends_cycle(epoch) for epoch in range(1, 6)] == [False, True, False, True, True]


def test_without_cycles_only_the_last_epoch_ends_the_schedule() -> None:
    assert [Schedule(3, 4).ends_cycle(epoch) for epoch in (1, 2, 3)] == [False, False, True]
