"""The paper's rule (arXiv 2102.01386, section 3), exactly: gradient norms that change least."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from afcore.freezing.decisions import FreezeDecision, FreezeState, IntervalStatistics

__all__ = ["gradient_norm_test", "relative_change"]

_PRACTICALLY_INFINITE = 1e290


def gradient_norm_test(
    state: FreezeState, statistics: IntervalStatistics, *, percentile: float
) -> tuple[FreezeState, FreezeDecision | None]:
    """The paper's test: freeze, from the bottom, blocks whose gradient changes least.

    ``eta_l = |d_l(previous) - d_l(now)| / d_l(previous)``. The threshold is the given percentile
    of eta over the blocks still training; the new first trainable block is the first one, from
    the bottom, whose eta is at or above it. No decision at the first interval.

    Paper: raw sums. Here: ``d_l`` divided by the interval's steps, because an epoch's steps need
    not divide evenly. Silent in the paper: 0/0 counts as 0, x/0 as infinity; numpy's linear
    percentile.

    Args:
        state: before the decision.
        statistics: of the interval that just ended.
        percentile: 0 to 100; the paper's N is 50.

    Returns:
        The new state, and the decision unless this was the first interval.
    """
    now = tuple(norm / statistics.num_steps for norm in statistics.gradient_norms)
    if state.previous is None:
        return replace(state, previous=now), None
    start = state.boundary
    eta = [math.nan] * len(now)
    for block in range(start, len(now)):
        eta[block] = relative_change(state.previous[block], now[block])
    threshold = _percentile(eta[start:], percentile)
    after = next(block for block in range(start, len(now)) if eta[block] >= threshold)
    decision = FreezeDecision(tuple(eta), threshold, start, after)
    return FreezeState(boundary=after, previous=now), decision


def relative_change(before: float, now: float) -> float:
    """``|before - now| / before``; 0/0 is 0, x/0 infinite."""
    change = abs(before - now)
    if before == 0:
        return 0.0 if change == 0 else math.inf
    return change / before


def _percentile(values: Sequence[float], percentile: float) -> float:
    """``numpy.percentile``, which gives NaN as soon as it must interpolate at an infinity."""
    largest = np.finfo(np.float64).max
    found = float(np.percentile(np.minimum(values, largest), percentile))
    return math.inf if found > _PRACTICALLY_INFINITE else found
