"""A prefix frozen and cached from the first step, which grows, under a head solved before it.

**Hypothesis.** What a pre-trained model's lower blocks put out serves most tasks as it is, and what
makes fine-tuning slow at first is a head drawn at random, not the blocks. Of what does train, the
lower blocks are done first: once the task is known, their changes are worth less than their time.
So

1. the blocks below the boundary are frozen from the first step: what they put out for each example
   is computed once, cached, and shared by every run on the same text;
2. the head's last layer is solved outright on what the pre-trained blocks put out
   (:mod:`afcore.training.head`), before the first step;
3. the rest is trained for a cycle of four epochs, the learning rate falling to zero; after each
   epoch of it another sixth of the blocks freezes (of six, one), so that at its end the last block
   trains alone, which costs next to nothing;
4. another cycle, from where the first one began, follows as long as the validation loss says that
   it pays: ``training.epochs`` is the most.

What a user cannot know is how much accuracy there is to lose. One knob says what it is worth:
``tolerance``, in points of the main score. It sets the depth of the frozen start, a third of the
blocks at 0, half of them at 0.5 and two thirds from 2 on, and how much the loss must still fall for
another cycle.

**The boundary stays** where it is while the loss falls fast, and after a first epoch in which the
task was not known yet: in which the loss was not clearly below that of always answering with the
classes' shares. **It falls** to 0 for as long as the model has not begun to learn. At tolerance 0
it falls for an epoch, too, where the first one leaves the task unknown, as what pre-trained blocks
put out says little of what a review thinks of a film, say. And a cycle begins at half the depth of
the one before once training has settled, until that lowers the loss no more.

What it was measured to do, how its constants were chosen, and where it fails: docs/freezing.md.
"""

import math
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    check_depth,
)
from afcore.freezing.settling import has_settled

__all__ = ["FrozenStart"]

_DEPTHS = ((0.0, 0.5, 2.0), (1 / 3, 1 / 2, 2 / 3))
"""Tolerances, and the shares of the blocks that are frozen from the start; linear between."""
_CYCLE_EPOCHS = 4
_RISE = 2 / 3
"""Share of the blocks by which the boundary would rise over a whole cycle."""
_LEARNED = 0.95
"""A validation loss below this share of chance's, once: the model has begun to learn."""
_KNOWN = 0.6
"""... below this one: the frozen start was one for this task."""
_LEARNS_FAST = 0.25
"""An epoch that lowered the loss by more than this share: the blocks that train are at work."""
_LEAST_GAIN = 0.10
"""Share by which the last epoch of a cycle must lower the validation loss for another cycle."""


class FrozenStart(FreezePolicy):
    """Blocks frozen and cached from the first step, as many as ``tolerance`` allows, and then more.

    Memory: ``start``, the boundary at which cycles begin; ``thawed``, that the task was unknown
    under it; ``best``, the lowest validation loss at the end of a cycle so far, if there was one.
    """

    keeps_statistics: ClassVar[bool] = False
    starts_frozen: ClassVar[bool] = True
    solves_head: ClassVar[bool] = True
    stops: ClassVar[bool] = True

    policy: Literal["frozen_start"] = "frozen_start"
    tolerance: float = Field(
        0.5,
        ge=0,
        description="points of accuracy that may be given up for time, a wish and not a promise: "
        "sets how deep the frozen start is; at 0 all blocks train for an epoch where the task is "
        "unknown, and cycles begin ever lower, until that improves nothing",
    )
    depth: int | None = Field(
        None,
        ge=0,
        description="blocks frozen from the start; default: a third of them at tolerance 0, half "
        "at 0.5, two thirds from 2 on",
    )

    @property
    def cycle_epochs(self) -> int:
        """So many that the last block trains alone at their end."""
        return _CYCLE_EPOCHS

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """The frozen start, which bears, and wants, a higher rate."""
        check_depth(self.depth, num_blocks)
        depth = self.depth
        if depth is None:
            share = float(np.interp(self.tolerance, *_DEPTHS))
            depth = min(math.floor(num_blocks * share + 1e-9), num_blocks - 1)
            # What was drawn at random says nothing yet, whatever the depth.
            depth = depth if num_pretrained is None else min(depth, num_pretrained)
        return FreezeState(depth, _rate(depth), memory={"start": depth})

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """At the end of an epoch: freeze more, thaw, go on, or say that training has settled."""
        num_blocks = len(statistics.gradient_norms)
        least, chance = min(statistics.validation_losses), statistics.chance_loss
        after, settled, memory = state.boundary, False, state.memory
        thaws = self.tolerance == 0 and not statistics.ends_cycle
        is_first_look = thaws and state.boundary > 0 and "thawed" not in memory
        if least > (_KNOWN if is_first_look else _LEARNED) * chance > 0:
            after, memory = 0, {**memory, "thawed": True}
        elif statistics.ends_cycle:
            settled, memory = self._end_cycle(state, statistics)
            if not settled and statistics.epoch < statistics.num_epochs:
                after = memory["start"]
        elif chance > 0 and not _learns_fast(statistics):
            after = max(after, self._risen(memory["start"], statistics.cycle_share, num_blocks))
        changed = FreezeState(after, _rate(after), settled, memory)
        nothing = (math.nan,) * num_blocks
        return changed, FreezeDecision(nothing, math.nan, state.boundary, after)

    def _end_cycle(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[bool, dict[str, Any]]:
        """Whether training has settled, and the memory, with where the next cycle begins."""
        losses, memory = statistics.validation_losses, state.memory
        least_gain = 0.0 if self.tolerance == 0 else _LEAST_GAIN
        settled = has_settled(losses, least_gain, statistics.validation_errors)
        best, start = memory.get("best", math.inf), memory["start"]
        left = statistics.num_epochs - statistics.epoch
        thaws = self.tolerance == 0 and left >= self.cycle_epochs and losses[-1] < best
        if settled and thaws and start:
            start, settled = start // 2, False
        return settled, {**memory, "start": start, "best": min(best, losses[-1])}

    def _risen(self, start: int, share: float, num_blocks: int) -> int:
        """The boundary after a share of a cycle that began at ``start``; 0 stays."""
        if start == 0:
            return 0
        return min(start + math.floor(share * _RISE * num_blocks + 1e-9), num_blocks - 1)

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """Whether the model begins to learn at once, and how fast, is not known."""
        start = self.begin(num_blocks).boundary
        cycle = min(cycle_epochs or num_epochs, num_epochs)
        shares = [epoch % cycle / cycle for epoch in range(num_epochs)]
        traces = {"rises": [self._risen(start, share, num_blocks) for share in shares]}
        if num_epochs > 1 and start:
            traces["thaws after epoch 1"] = [start] + [0] * (num_epochs - 1)
        return {
            case: [[boundary] * self.intervals_per_epoch for boundary in boundaries]
            for case, boundaries in traces.items()
        }


def _learns_fast(statistics: IntervalStatistics) -> bool:
    """Whether the epoch lowered the lowest loss by much; of the first one, whether it had to.

    Where its mean loss, over examples that were new, is that of an unknown task, a solved head knew
    little, or there was none, and the head is being learned.
    """
    *before, loss = statistics.validation_losses
    if not before:
        return statistics.train_loss > _KNOWN * statistics.chance_loss
    return loss < (1 - _LEARNS_FAST) * min(before)


def _rate(depth: int) -> float:
    """Twice the configured rate where blocks are frozen."""
    return 2.0 if depth else 1.0
