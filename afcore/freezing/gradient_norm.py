"""The paper's rule (arXiv 2102.01386, section 3), exactly: gradient norms that change least."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    by_epoch,
)

__all__ = ["GradientNorm", "relative_change"]

_PRACTICALLY_INFINITE = 1e290


class GradientNorm(FreezePolicy):
    """The paper's rule: freeze, from the bottom, blocks whose gradient changes least.

    ``eta_l = |d_l(previous) - d_l(now)| / d_l(previous)``. The threshold is the given percentile
    of eta over the blocks still training; the new first trainable block is the first one, from
    the bottom, whose eta is at or above it. No decision at the first interval.

    Paper: raw sums. Here: ``d_l`` divided by the interval's steps, because an epoch's steps need
    not divide evenly. Silent in the paper: 0/0 counts as 0, x/0 as infinity; numpy's linear
    percentile; nothing freezes by gradients that are no numbers.

    Memory: ``previous``, L numbers, the last interval's ``d_l`` per step.
    """

    policy: Literal["gradient_norm"] = "gradient_norm"
    percentile: float = Field(
        50.0, ge=0, le=100, description="percentile of eta that is the limit; the paper's N"
    )

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """None at the first interval: there is nothing to compare it with."""
        now = [norm / statistics.num_steps for norm in statistics.gradient_norms]
        previous = state.memory.get("previous")
        memory = {"previous": now}
        start = state.boundary
        if previous is None:
            return FreezeState(start, memory=memory), None
        eta = [math.nan] * len(now)
        for block in range(start, len(now)):
            eta[block] = relative_change(previous[block], now[block])
        threshold = _percentile(eta[start:], self.percentile)
        # None is where gradients are no numbers; a Trainer goes on with them.
        after = next((b for b in range(start, len(now)) if eta[b] >= threshold), start)
        decision = FreezeDecision(tuple(eta), threshold, start, after)
        return FreezeState(after, memory=memory), decision

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """The second interval is the first that is compared with one before."""
        intervals = self.intervals_per_epoch
        count = num_epochs * intervals
        undecided = min(count, 2)
        earliest = [0] * undecided + [num_blocks - 1] * (count - undecided)
        return {
            "nothing freezes": by_epoch([0] * count, intervals),
            "all freezes at once": by_epoch(earliest, intervals),
        }


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
