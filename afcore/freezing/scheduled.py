"""What policies share that freeze by the share of the steps done, and look at nothing else."""

import math
from abc import abstractmethod

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    by_epoch,
)

__all__ = ["ScheduledPolicy"]


class ScheduledPolicy(FreezePolicy):
    """Blocks freeze at times that are set beforehand."""

    @abstractmethod
    def due(self, done: int, total: int, num_blocks: int) -> int:
        """Blocks that are frozen once ``done`` of ``total`` steps are."""

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """All blocks whose time has come."""
        num_blocks = len(statistics.gradient_norms)
        due = self.due(statistics.step, statistics.total_steps, num_blocks)
        after = max(state.boundary, due)
        decision = FreezeDecision((math.nan,) * num_blocks, math.nan, state.boundary, after)
        return FreezeState(after), decision

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """It leaves no choice."""
        count = num_epochs * self.intervals_per_epoch
        boundaries = [self.due(done, count, num_blocks) for done in range(count)]
        return {"as scheduled": by_epoch(boundaries, self.intervals_per_epoch)}
