"""A fixed number of blocks, frozen from the first step."""

from typing import ClassVar, Literal

from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    check_depth,
)

__all__ = ["Static"]


class Static(FreezePolicy):
    """A fixed number of blocks, frozen from the first step; no statistics are recorded."""

    keeps_statistics: ClassVar[bool] = False
    decides: ClassVar[bool] = False
    starts_frozen: ClassVar[bool] = True

    policy: Literal["static"] = "static"
    depth: int | None = Field(
        None, ge=0, description="blocks frozen from the start; default: half of them"
    )

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """All that it freezes is frozen at once."""
        check_depth(self.depth, num_blocks)
        return FreezeState(num_blocks // 2 if self.depth is None else self.depth)

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """Nothing, ever."""
        return state, None

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """It leaves no choice."""
        boundary = self.begin(num_blocks).boundary
        return {"as configured": [[boundary] * self.intervals_per_epoch] * num_epochs}
