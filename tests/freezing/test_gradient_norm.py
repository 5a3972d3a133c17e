"""The paper's rule on cases computed by hand."""

import math

import pytest

from afcore.freezing.decisions import FreezeState
from afcore.freezing.gradient_norm import gradient_norm_test
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
def test_gradient_norm_test(
    boundary: int,
    before: list[float],
    now: list[float],
    percentile: float,
    eta: list[float],
    threshold: float,
    after: int,
) -> None:
    state = FreezeState(boundary, tuple(map(float, before)))
    new, decision = gradient_norm_test(state, interval(now), percentile=percentile)
    assert decision is not None
    assert decision.eta == pytest.approx(eta, nan_ok=True)
    assert decision.threshold == pytest.approx(threshold)
    assert (decision.boundary_before, decision.boundary_after) == (boundary, after)
    assert new == FreezeState(after, tuple(map(float, now)))


def test_no_decision_at_the_first_interval() -> None:
    state, decision = gradient_norm_test(FreezeState(), interval([1, 2]), percentile=50)
    assert decision is None
    assert state == FreezeState(0, (1.0, 2.0))


def test_unequal_intervals_are_compared_per_step() -> None:
    state, _ = gradient_norm_test(FreezeState(), interval([4, 8], num_steps=4), percentile=50)
    _, decision = gradient_norm_test(state, interval([5, 20], num_steps=5), percentile=50)
    assert decision is not None
    assert decision.eta == (0.0, 1.0)
