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
2. The loss on unseen examples is *settled* once it has not fallen, by more than its standard error,
   below its best for ``patience`` intervals. In epoch 1 every training example is new, so the
   training loss itself is that loss. Later it is the validation loss: settled when an epoch did
   not improve on the best before it, and another epoch is still to come after this one.
3. When the loss is settled, the boundary moves up over the blocks, from the bottom, that have been
   quiet in ``patience`` intervals one after the other.

Where it fails and what it was measured to do: docs/freezing.md.
"""

import math
from dataclasses import replace

from afcore.freezing.decisions import FreezeDecision, FreezeState, IntervalStatistics

__all__ = ["coherence", "guarded_test"]


def guarded_test(
    state: FreezeState, statistics: IntervalStatistics, *, patience: int, noise_ratio: float
) -> tuple[FreezeState, FreezeDecision | None]:
    """Freeze, from the bottom, blocks that are quiet, if the loss on unseen examples is settled.

    Args:
        state: before the decision.
        statistics: of the interval that just ended.
        patience: intervals, at least 1.
        noise_ratio: largest coherence that counts as noise, about 1.

    Returns:
        The new state, and the decision; its ``eta`` is the coherence of each block.
    """
    found = coherence(statistics)
    state = replace(_watch_loss(state, statistics), quiet=_count_quiet(state, found, noise_ratio))
    after = state.boundary
    if state.steady >= patience or _validation_settled(statistics):
        assert state.quiet is not None
        while after < len(found) - 1 and state.quiet[after] >= patience:
            after += 1
    shown = (math.nan,) * state.boundary + found[state.boundary :]
    decision = FreezeDecision(shown, noise_ratio, state.boundary, after)
    return replace(state, boundary=after), decision


def coherence(statistics: IntervalStatistics) -> tuple[float, ...]:
    """``|sum g|^2 / sum |g|^2`` of each block; 0 where there was no gradient."""
    return tuple(
        squared_sum / sum_of_squares if sum_of_squares else 0.0
        for squared_sum, sum_of_squares in zip(
            statistics.squared_sums, statistics.sums_of_squares, strict=True
        )
    )


def _count_quiet(
    state: FreezeState, coherences: tuple[float, ...], noise_ratio: float
) -> tuple[int, ...]:
    before = state.quiet or (0,) * len(coherences)
    return tuple(
        count + 1 if value <= noise_ratio else 0
        for count, value in zip(before, coherences, strict=True)
    )


def _watch_loss(state: FreezeState, statistics: IntervalStatistics) -> FreezeState:
    """Only in epoch 1: later the training examples have been seen."""
    if statistics.epoch > 1:
        return state
    loss, best = statistics.train_loss, state.best_loss
    if best is None:
        return replace(state, best_loss=loss)
    fell = loss < best - statistics.train_loss_error
    return replace(state, best_loss=min(best, loss), steady=0 if fell else state.steady + 1)


def _validation_settled(statistics: IntervalStatistics) -> bool:
    """Never in the last epoch: what freezes there is read by no later one, so little is saved."""
    losses = statistics.validation_losses
    worse = len(losses) >= 2 and min(losses) < losses[-1]
    return worse and statistics.epoch < statistics.num_epochs
