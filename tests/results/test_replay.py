"""Replaying policies on recorded statistics."""

import math

import pytest

from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.linear import Linear
from afcore.freezing.policy import PER_BLOCK, IntervalStatistics
from afcore.results.replay import eta_noise, replay
from afcore.results.report import DecisionReport, RunReport
from tests.reports import make_report


def interval(step: int, norms: list[float], halves: tuple[float, float]) -> IntervalStatistics:
    per_block = {name: norms for name in PER_BLOCK} | {
        "first_half_norms": [halves[0]] * len(norms),
        "second_half_norms": [halves[1]] * len(norms),
    }
    return IntervalStatistics(
        step=step,
        epoch=1,
        num_steps=4,
        total_steps=20,
        num_epochs=2,
        validation_losses=(),
        learning_rate=1e-4,
        train_loss=1.0,
        train_loss_error=0.1,
        **per_block,
    )


def recorded(intervals: list[IntervalStatistics], decisions: list[DecisionReport]) -> RunReport:
    report = make_report(mode="freeze")
    epochs = [epoch.model_copy(update={"boundary_start": 0}) for epoch in report.epochs]
    return report.model_copy(
        update={"epochs": epochs, "intervals": intervals, "decisions": decisions}
    )


INTERVALS = [
    interval(5, [10.0, 10.0, 10.0, 10.0], (4.0, 6.0)),
    interval(10, [9.0, 8.0, 7.0, 6.0], (4.0, 5.0)),
    interval(15, [9.0, 8.0, 7.0, 3.0], (4.0, 4.0)),
]


def test_the_paper_s_rule_decides_as_it_would_have() -> None:
    done = replay(recorded(INTERVALS, []), GradientNorm())
    assert done.ended_early is None
    assert [row.replayed for row in done.intervals] == [0, 2, 3]
    assert [row.recorded for row in done.intervals] == [0, 0, 0]
    assert done.intervals[1].eta == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert all(math.isnan(eta) for eta in done.intervals[0].eta)
    assert done.intervals[0].half_eta == pytest.approx((0.5,) * 4)


def test_another_percentile_decides_otherwise() -> None:
    done = replay(recorded(INTERVALS, []), GradientNorm(percentile=100))
    assert [row.replayed for row in done.intervals] == [0, 3, 3]


def test_it_stops_where_a_block_was_frozen_that_the_policy_trains() -> None:
    froze = DecisionReport(
        step=10, epoch=1, eta=(), threshold=0.2, boundary_before=0, boundary_after=2
    )
    done = replay(recorded(INTERVALS, [froze]), Linear(depth=1))
    assert [row.recorded for row in done.intervals] == [0, 2]
    assert done.ended_early is not None
    assert "2 blocks frozen and the policy 0" in done.ended_early


def test_noise_is_the_change_inside_an_interval() -> None:
    noise = eta_noise(replay(recorded(INTERVALS, []), GradientNorm()).intervals)
    # etas 0.1 0.2 0.3 0.4 against 0.25; 0 0 0 0.5 against 0
    assert noise.num_values == 8
    assert noise.median_eta == pytest.approx(0.15)
    assert noise.median_half_eta == pytest.approx(0.125)
    assert noise.share_within_noise == pytest.approx(5 / 8)
    # The same numbers stand for both sums, so all gradients are noise.
    assert (noise.first_coherence, noise.later_coherence) == (1.0, 1.0)


def test_halves_of_unlike_length_are_compared_by_step() -> None:
    odd = INTERVALS[0].model_copy(update={"num_steps": 5})  # sums 4 and 6 over 2 and 3 steps
    assert replay(recorded([odd], []), GradientNorm()).intervals[0].half_eta == (0.0,) * 4


def test_one_interval_has_no_noise() -> None:
    found = replay(recorded(INTERVALS[:1], []), GradientNorm())
    assert eta_noise(found.intervals).num_values == 0
