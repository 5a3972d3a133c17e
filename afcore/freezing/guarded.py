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
from dataclasses import replace

from afcore.freezing.decisions import FreezeDecision, FreezeState, IntervalStatistics

__all__ = ["coherence", "guarded_test"]

_SIGNIFICANT = 1.645
"""Standard errors that a normal variable exceeds with a probability of 5 %."""


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
    quiet = _count_quiet(state, found, noise_ratio)
    state = replace(state, quiet=quiet, losses=_losses(state, statistics))
    state = replace(state, settled=state.settled or _settles(state, statistics, patience))
    after = state.boundary
    if state.settled:
        while after < len(found) - 1 and quiet[after] >= patience:
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


def _losses(state: FreezeState, statistics: IntervalStatistics) -> tuple[tuple[float, float], ...]:
    """Only of epoch 1: later the training examples have been seen."""
    if statistics.epoch > 1:
        return state.losses
    return (*state.losses, (statistics.train_loss, statistics.train_loss_error))


def _settles(state: FreezeState, statistics: IntervalStatistics, patience: int) -> bool:
    """At the end of an epoch, and not of the last two.

    What freezes for one epoch alone is read only there, with the learning rate near zero: it saves
    little, and cost accuracy when it was tried.
    """
    epoch, losses = statistics.epoch, statistics.validation_losses
    if len(losses) < epoch or epoch > statistics.num_epochs - 2:
        return False
    if epoch > 1:
        return losses[-1] >= min(losses[:-1])
    return _is_flat(state.losses, patience) and losses[0] >= _mean(state.losses[-patience:])[0]


def _is_flat(losses: tuple[tuple[float, float], ...], patience: int) -> bool:
    """Whether the last ``patience`` intervals are not significantly below those before."""
    if len(losses) < 2 * patience:
        return False
    before, error_before = _mean(losses[-2 * patience : -patience])
    after, error_after = _mean(losses[-patience:])
    return before - after <= _SIGNIFICANT * math.hypot(error_before, error_after)


def _mean(losses: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    """Of means with standard errors: their mean, and its standard error."""
    means, errors = zip(*losses, strict=True)
    return sum(means) / len(means), math.hypot(*errors) / len(errors)
