"""FreezeOut (arXiv 1706.04983): each block freezes at a time of its own, set beforehand."""

from typing import Literal

from pydantic import Field

from afcore.freezing.scheduled import ScheduledPolicy

__all__ = ["Annealed"]


class Annealed(ScheduledPolicy):
    """FreezeOut: blocks freeze one after the other, at times that grow with the cube of the depth.

    Block ``i`` of ``L`` freezes once the share ``(t_0 + (1 - t_0) * i / (L - 1)) ** 3`` of all
    steps is done: the cubic variant, whose ``t_0`` is the one before cubing.

    Paper: the learning rate of each layer anneals along a cosine of its own, to 0 at that time, and
    begins the higher the earlier that is. Here: the times alone, under the configured schedule,
    because rates of single blocks would need more of the loop than a policy may ask for. And a
    block freezes at the first decision after its time rather than at the step.
    """

    policy: Literal["annealed"] = "annealed"
    t_0: float = Field(
        0.5,
        gt=0,
        le=1,
        description="cubed, the share of all steps after which the first block freezes: 0.5 is an "
        "eighth",
    )

    def due(self, done: int, total: int, num_blocks: int) -> int:
        """Blocks whose time, a share of all steps, has come."""
        last = num_blocks - 1  # its time is the end of the training
        times = ((self.t_0 + (1 - self.t_0) * block / last) ** 3 for block in range(last))
        return sum(done >= time * total for time in times)
