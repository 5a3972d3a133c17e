"""The paper's rule on cases computed by hand."""

import math

import pytest

from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.policy import FreezeState
from tests.freezing.intervals import interval

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("boundary", "before", "now", "percentile", "eta", "threshold", "after"),
    [
        # eta 0.1 0.2 0.3 0.4, median 0.25: the first at or above it is block 2.
        (0, [10, 10, 10, 10], [9, 8, 7, 6], 50, [0.1, 0.2, 0.3, 0.4], 0.25, 2),
        # A rise counts as much as a fall.
        (0, [10, 10, 10, 10], [11, 12, 13, 14], 50, [0.1, 0.2, 0.3, 0.4], 0.25, 2),
        # The bottom block changes most: nothing freezes.
        (0, [10, 10, 10], [1, 9, 9], 50, [0.9, 0.1, 0.1], 0.1, 0),
        # A single stable block above an unstable one does not freeze: the prefix is unbroken.
        (0, [10, 10, 10, 10], [5, 10, 1, 1], 50, [0.5, 0.0, 0.9, 0.9], 0.7, 2),
        # Frozen blocks do not vote.
        (2, [0, 0, 10, 10], [0, 0, 9, 5], 50, [NAN, NAN, 0.1, 0.5], 0.3, 3),
        # The last block never freezes.
        (3, [0, 0, 0, 10], [0, 0, 0, 10], 50, [NAN, NAN, NAN, 0.0], 0.0, 3),
        # All alike: the first is at the threshold, nothing freezes.
        (0, [4, 4, 4], [2, 2, 2], 50, [0.5, 0.5, 0.5], 0.5, 0),
        # 0/0 is 0, and x/0 infinite; the median of 0 and two infinities is infinite.
        (0, [0, 0, 0], [0, 1, 2], 50, [0.0, INF, INF], INF, 1),
        # The percentile interpolates between 0.5 and infinity: infinite.
        (0, [2, 2, 0, 0], [1, 1, 1, 1], 50, [0.5, 0.5, INF, INF], INF, 2),
        (0, [0, 0], [0, 0], 50, [0.0, 0.0], 0.0, 0),
        (0, [10, 10, 10, 10], [9, 8, 7, 6], 100, [0.1, 0.2, 0.3, 0.4], 0.4, 3),
        (0, [10, 10, 10, 10], [9, 8, 7, 6], 0, [0.1, 0.2, 0.3, 0.4], 0.1, 0),
    ],
)
def test_blocks_that_change_least_freeze_from_the_bottom(
    boundary: int,
    before: list[float],
    now: list[float],
    percentile: float,
    eta: list[float],
    threshold: float,
    after: int,
) -> None:
    state = FreezeState(boundary, memory={"previous": before})
    new, decision = GradientNorm(percentile=percentile).decide(state, interval(now))
    assert decision is not None
    assert decision.eta == pytest.approx(eta, nan_ok=True)
    assert decision.threshold == pytest.approx(threshold)
    assert (decision.boundary_before, decision.boundary_after) == (boundary, after)
    assert new == FreezeState(after, memory={"previous": now})


def test_no_decision_at_the_first_interval() -> None:
    state, decision = GradientNorm().decide(FreezeState(), interval([1, 2]))
    assert decision is None
    assert state == FreezeState(0, memory={"previous": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("before", "now"), [([1, 1, 1], [1, NAN, 1]), ([1, 1, NAN], [1, 2, 1]), ([INF] * 3, [INF] * 3)]
)
def test_by_gradients_that_are_no_numbers_nothing_freezes(
    before: list[float], now: list[float]
) -> None:
    """A Trainer goes on with them."""
    state, decision = GradientNorm().decide(
        FreezeState(1, memory={"previous": before}), interval(now)
    )
    assert decision is not None
    assert (decision.boundary_after, state.boundary) == (1, 1)
    assert math.isnan(decision.threshold)


def test_unequal_intervals_are_compared_per_step() -> None:
    policy = GradientNorm()
    state, _ = policy.decide(FreezeState(), interval([4, 8], num_steps=4))
    _, decision = policy.decide(state, interval([5, 20], num_steps=5))
    assert decision is not None
    assert decision.eta == (0.0, 1.0)


@pytest.mark.parametrize(
    ("epochs", "intervals", "earliest"),
    [(2, 2, [[0, 0], [3, 3]]), (1, 3, [[0, 0, 3]]), (1, 1, [[0]])],
)
def test_what_a_plan_knows(epochs: int, intervals: int, earliest: list[list[int]]) -> None:
    found = GradientNorm(intervals_per_epoch=intervals).possible_traces(4, epochs)
    assert found == {
        "nothing freezes": [[0] * intervals] * epochs,
        "all freezes at once": earliest,
    }
