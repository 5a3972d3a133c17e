"""Freeze what is no more than noise, once the model has stopped getting better on unseen text.

**Hypothesis.** A block is worth training as long as two things hold. The model still improves on
examples that it has not seen; and the block's gradients still agree on a direction. With ``g_t``
the gradients of a block at the ``n`` steps of an interval,

    coherence = |sum_t g_t|^2 / sum_t |g_t|^2

is 1 on average when they are independent with mean zero, and ``n`` when they are all equal:
``(|sum g|^2 - sum |g|^2) / (n (n - 1))`` is the unbiased estimate of the squared norm of the mean
gradient (the two sums of the "simple noise scale" of McCandlish et al., arXiv 1812.06162). The
paper's eta compares the norms of two such sums; where they are noise, so is eta.

**Rule.** After every interval:

1. A block is *quiet* when its coherence is at most ``noise_ratio``.
2. The loss on unseen examples *settles* at the end of an epoch, when two more are to come at least.
   At the end of epoch 1, in which every training example is new, it takes two signs. The training
   loss has been flat: its mean over the last ``patience`` intervals is not significantly below
   that over the ``patience`` before (one-sided, 5 %). And the validation loss is no lower than that
   mean: what the last steps learned does not show on other text. Later it takes one: the validation
   loss is no lower than the best before.
3. Once the loss is settled, the boundary moves up over the blocks, from the bottom, that have been
   quiet in ``patience`` intervals one after the other.

Where it fails and what it was measured to do: docs/freezing.md.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from afcore.freezing.policy import (
    FreezeDecision,
    FreezePolicy,
    FreezeState,
    IntervalStatistics,
    by_epoch,
)

__all__ = ["Guarded", "coherence"]

_SIGNIFICANT = 1.645
"""Standard errors that a normal variable exceeds with a probability of 5 %."""


class Guarded(FreezePolicy):
    """Blocks whose gradients are noise, once the loss on unseen text has stopped falling.

    Memory: ``quiet``, L numbers, intervals that each block has been quiet for; ``losses``, the mean
    training loss of each interval of epoch 1 with its standard error; ``settled``, whether the loss
    on unseen examples has stopped falling.
    """

    eta_label: ClassVar[str] = "coherence of the gradients: 1 is noise"

    policy: Literal["guarded"] = "guarded"
    patience: int = Field(
        2,
        ge=1,
        description="intervals that a block's gradients must be noise before it freezes; at the "
        "end of epoch 1 the loss is compared over so many",
    )
    noise_ratio: float = Field(
        1.1,
        gt=0,
        description="largest coherence of an interval's gradients taken for noise; 1 is noise, the "
        "number of steps is full agreement",
    )

    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """``eta`` of the decision is the coherence of each block."""
        memory = state.memory
        found = coherence(statistics)
        quiet = [
            count + 1 if value <= self.noise_ratio else 0
            for count, value in zip(memory.get("quiet", [0] * len(found)), found, strict=True)
        ]
        losses = memory.get("losses", [])
        if statistics.epoch == 1:  # later the training examples have been seen
            losses = [*losses, [statistics.train_loss, statistics.train_loss_error]]
        settled = memory.get("settled", False) or self._settles(losses, statistics)
        after = state.boundary
        if settled:
            while after < len(found) - 1 and quiet[after] >= self.patience:
                after += 1
        shown = (math.nan,) * state.boundary + found[state.boundary :]
        decision = FreezeDecision(shown, self.noise_ratio, state.boundary, after)
        kept = {"quiet": quiet, "losses": losses, "settled": settled}
        return FreezeState(after, memory=kept), decision

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]]:
        """It freezes when an epoch ends that is not one of the last two.

        And when the first ends only if that is long enough.
        """
        intervals = self.intervals_per_epoch
        count = num_epochs * intervals
        first = 1 if intervals >= 2 * self.patience else 2
        undecided = first * intervals if first <= num_epochs - 2 else count
        earliest = [0] * undecided + [num_blocks - 1] * (count - undecided)
        return {
            "nothing freezes": by_epoch([0] * count, intervals),
            "all freezes at once": by_epoch(earliest, intervals),
        }

    def _settles(
        self, train_losses: Sequence[Sequence[float]], statistics: IntervalStatistics
    ) -> bool:
        """At the end of an epoch, and not of the last two.

        What freezes for one epoch alone is read only there, with the learning rate near zero: it
        saves little, and cost accuracy when it was tried.
        """
        epoch, losses = statistics.epoch, statistics.validation_losses
        if len(losses) < epoch or epoch > statistics.num_epochs - 2:
            return False
        if epoch > 1:
            return losses[-1] >= min(losses[:-1])
        flat = _is_flat(train_losses, self.patience)
        return flat and losses[0] >= _mean(train_losses[-self.patience :])[0]


def coherence(statistics: IntervalStatistics) -> tuple[float, ...]:
    """``|sum g|^2 / sum |g|^2`` of each block; 0 where there was no gradient."""
    return tuple(
        squared_sum / sum_of_squares if sum_of_squares else 0.0
        for squared_sum, sum_of_squares in zip(
            statistics.squared_sums, statistics.sums_of_squares, strict=True
        )
    )


def _is_flat(losses: Sequence[Sequence[float]], patience: int) -> bool:
    """Whether the last ``patience`` intervals are not significantly below those before."""
    if len(losses) < 2 * patience:
        return False
    before, error_before = _mean(losses[-2 * patience : -patience])
    after, error_after = _mean(losses[-patience:])
    return before - after <= _SIGNIFICANT * math.hypot(error_before, error_after)


def _mean(losses: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Of means with standard errors: their mean, and its standard error."""
    means, errors = zip(*losses, strict=True)
    return sum(means) / len(means), math.hypot(*errors) / len(errors)
