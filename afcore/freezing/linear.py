"""As many blocks as steps are done, in proportion."""

import math
from typing import Literal

from pydantic import Field

from afcore.freezing.policy import FreezeState, check_depth
from afcore.freezing.scheduled import ScheduledPolicy

__all__ = ["Linear"]


class Linear(ScheduledPolicy):
    """A number of blocks in proportion to the steps done."""

    policy: Literal["linear"] = "linear"
    depth: int | None = Field(
        None, ge=0, description="blocks frozen at the end; default: all but one"
    )

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """Nothing is frozen yet."""
        check_depth(self.depth, num_blocks)
        return FreezeState()

    def due(self, done: int, total: int, num_blocks: int) -> int:
        """``floor(depth * done / total)``."""
        depth = num_blocks - 1 if self.depth is None else self.depth
        return math.floor(depth * done / total)
