"""Nothing freezes, and the statistics are recorded all the same: others are replayed on them."""

from typing import Literal

from afcore.freezing.policy import FreezeDecision, FreezePolicy, FreezeState, IntervalStatistics

__all__ = ["NoFreezing"]


class NoFreezing(FreezePolicy):
    """Nothing; statistics are recorded all the same, so that others can be replayed on them."""

    policy: Literal["none"] = "none"

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """Nothing, ever."""
        return state, None

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """It leaves no choice."""
        return {"nothing freezes": [[0] * self.intervals_per_epoch] * num_epochs}
