"""Policies that look at nothing but the step."""

import math
from dataclasses import replace

from afcore.freezing.decisions import FreezeDecision, FreezeState, IntervalStatistics

__all__ = ["linear_schedule", "never"]


def linear_schedule(
    state: FreezeState, statistics: IntervalStatistics, *, depth: int
) -> tuple[FreezeState, FreezeDecision | None]:
    """Freeze in proportion to the steps done: ``floor(depth * step / total_steps)`` blocks."""
    wanted = math.floor(depth * statistics.step / statistics.total_steps)
    num_blocks = len(statistics.gradient_norms)
    after = max(state.boundary, min(wanted, num_blocks - 1))
    decision = FreezeDecision((math.nan,) * num_blocks, math.nan, state.boundary, after)
    return replace(state, boundary=after), decision


def never(
    state: FreezeState, statistics: IntervalStatistics
) -> tuple[FreezeState, FreezeDecision | None]:
    """No decision, ever: the statistics are recorded all the same."""
    return state, None
