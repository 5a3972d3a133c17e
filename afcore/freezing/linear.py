"""As many blocks as steps are done, in proportion."""

import math
from typing import Literal

from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    by_epoch,
    check_depth,
)

__all__ = ["Linear"]


class Linear(FreezePolicy):
    """A number of blocks in proportion to the steps done."""

    policy: Literal["linear"] = "linear"
    depth: int | None = Field(
        None, ge=0, description="blocks frozen at the end; default: all but one"
    )

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """Nothing is frozen yet."""
        check_depth(self.depth, num_blocks)
        return FreezeState()

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """``floor(depth * step / total_steps)`` blocks."""
        num_blocks = len(statistics.gradient_norms)
        due = self._due(statistics.step, statistics.total_steps, num_blocks)
        after = max(state.boundary, due)
        decision = FreezeDecision((math.nan,) * num_blocks, math.nan, state.boundary, after)
        return FreezeState(after), decision

    def possible_traces(self, num_blocks: int, num_epochs: int) -> dict[str, list[list[int]]]:
        """It leaves no choice."""
        count = num_epochs * self.intervals_per_epoch
        boundaries = [self._due(done, count, num_blocks) for done in range(count)]
        return {"as scheduled": by_epoch(boundaries, self.intervals_per_epoch)}

    def _due(self, done: int, total: int, num_blocks: int) -> int:
        depth = num_blocks - 1 if self.depth is None else self.depth
        return math.floor(depth * done / total)
