"""A prefix frozen and cached from the first step, under a head that is solved before it.

**Hypothesis.** What a pre-trained model's lower blocks put out serves most tasks as it is, and what
makes fine-tuning slow at first is a head drawn at random, not the blocks. So

1. the blocks below the boundary are frozen from the first step: what they put out for each example
   is computed once, cached, and shared by every run on the same text;
2. the head's last layer is solved outright on what the pre-trained blocks put out
   (:mod:`afcore.training.head`), before the first step;
3. the rest is trained for a cycle of two epochs (three at tolerance 0), the learning rate falling
   to zero, and for another as long as the validation loss says that it pays: ``training.epochs``
   is the most.

What a user cannot know is how much accuracy there is to lose. One knob says what it is worth:
``tolerance``, in points of the main score. It sets the depth of the frozen start, a third of the
blocks at 0, half of them at 0.5 and two thirds from 2 on, and how much the loss must still fall for
another cycle.

**The boundary falls** to 0 at the end of an epoch in which the model has not begun to learn, its
validation loss not clearly below that of always answering with the classes' shares: a prefix that
says nothing about the task is not kept frozen. At tolerance 0 it falls by half when training has
settled and a whole cycle is left, and again until that lowers the loss no more.

What it was measured to do, how its constants were chosen, and where it fails: docs/freezing.md.
"""

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    check_depth,
)
from afcore.freezing.settling import CYCLE_EPOCHS, has_settled

__all__ = ["FrozenStart"]

_DEPTHS = ((0.0, 0.5, 2.0), (1 / 3, 1 / 2, 2 / 3))
"""Tolerances, and the shares of the blocks that are frozen from the start; linear between."""
_LEARNED = 0.95
"""A validation loss below this share of chance's: the model has begun to learn."""
_LEAST_GAIN = 0.10
"""Share by which the last epoch of a cycle must lower the validation loss for another cycle."""


class FrozenStart(FreezePolicy):
    """Blocks frozen and cached from the first step, as many as ``tolerance`` allows.

    Memory: ``best``, the lowest validation loss at the end of a cycle so far.
    """

    keeps_statistics: ClassVar[bool] = False
    rises: ClassVar[bool] = False
    solves_head: ClassVar[bool] = True
    stops: ClassVar[bool] = True

    policy: Literal["frozen_start"] = "frozen_start"
    tolerance: float = Field(
        0.5,
        ge=0,
        description="points of accuracy that may be given up for time, a wish and not a promise: "
        "sets how deep the frozen start is; at 0 the boundary comes down until that improves "
        "nothing",
    )
    depth: int | None = Field(
        None,
        ge=0,
        description="blocks frozen from the start; default: a third of them at tolerance 0, half "
        "at 0.5, two thirds from 2 on",
    )

    @property
    def cycle_epochs(self) -> int:
        """One more where no accuracy is to be given up."""
        return CYCLE_EPOCHS + (self.tolerance == 0)

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """The frozen start, which bears, and wants, a higher rate."""
        check_depth(self.depth, num_blocks)
        depth = self.depth
        if depth is None:
            share = float(np.interp(self.tolerance, *_DEPTHS))
            depth = min(math.floor(num_blocks * share + 1e-9), num_blocks - 1)
            # What was drawn at random says nothing yet, whatever the depth.
            depth = depth if num_pretrained is None else min(depth, num_pretrained)
        return FreezeState(depth, rate=_rate(depth))

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """At the end of an epoch: thaw, go on, or say that training has settled."""
        num_blocks = len(statistics.gradient_norms)
        losses = statistics.validation_losses
        after, settled, memory = state.boundary, False, state.memory
        if losses[-1] > _LEARNED * statistics.chance_loss > 0:
            after = 0
        elif statistics.ends_cycle:
            least_gain = 0.0 if self.tolerance == 0 else _LEAST_GAIN
            settled = has_settled(losses, least_gain, statistics.validation_errors)
            best = memory.get("best", math.inf)
            left = statistics.num_epochs - statistics.epoch
            thaws = self.tolerance == 0 and left >= self.cycle_epochs and losses[-1] < best
            if settled and thaws and state.boundary:
                after, settled = state.boundary // 2, False
            memory = {**memory, "best": min(best, losses[-1])}
        changed = FreezeState(after, _rate(after), settled, memory)
        nothing = (math.nan,) * num_blocks
        return changed, FreezeDecision(nothing, math.nan, state.boundary, after)

    def possible_traces(self, num_blocks: int, num_epochs: int) -> dict[str, list[list[int]]]:
        """Whether the model begins to learn at once is not known."""
        start = [self.begin(num_blocks).boundary] * self.intervals_per_epoch
        thawed = [0] * self.intervals_per_epoch
        traces = {"all epochs": [start] * num_epochs}
        if num_epochs > 1 and start[0]:
            traces["thaws after epoch 1"] = [start, *[thawed] * (num_epochs - 1)]
        return traces


def _rate(depth: int) -> float:
    """Twice the configured rate where blocks are frozen."""
    return 2.0 if depth else 1.0
