"""Freeze what can no longer be told from noise, and not too early.

**Hypothesis.** A block has converged when the gradients of an interval no longer agree on a
direction. With ``g_t`` the gradients of a block at the ``n`` steps of an interval,

    coherence = |sum_t g_t|^2 / sum_t |g_t|^2

is 1 on average when they are independent with mean zero, and ``n`` when they are all equal:
``(|sum g|^2 - sum |g|^2) / (n (n - 1))`` is the unbiased estimate of the squared norm of the mean
gradient (the "simple noise scale" of McCandlish et al., arXiv 1812.06162, section 2, is built from
the same two sums). The paper's eta compares two norms of sums; where the sums are noise, eta is the
noise of noise.

**Rule.** After every interval a block is *quiet* when its coherence is at most ``noise_ratio``.
From the share ``start`` of all steps on, the boundary moves up over the blocks, from the bottom,
that have been quiet in ``patience`` intervals one after the other.

**Where it fails.** Noise hides a small signal: a block may be quiet and still learn, slowly, over
epochs. That is what ``start`` is for. See docs/freezing.md for the evidence.
"""

from dataclasses import replace

from afcore.freezing.decisions import FreezeDecision, FreezeState, IntervalStatistics

__all__ = ["coherence", "guarded_test"]


def guarded_test(
    state: FreezeState,
    statistics: IntervalStatistics,
    *,
    start: float,
    patience: int,
    noise_ratio: float,
) -> tuple[FreezeState, FreezeDecision | None]:
    """Freeze, from the bottom, blocks that were quiet for ``patience`` intervals.

    Args:
        state: before the decision.
        statistics: of the interval that just ended.
        start: share of all steps before which nothing freezes, 0 to 1.
        patience: intervals, at least 1.
        noise_ratio: largest coherence that counts as noise, about 1.

    Returns:
        The new state, and the decision; its ``eta`` is the coherence of each block.
    """
    found = coherence(statistics)
    before = state.quiet or (0,) * len(found)
    quiet = tuple(
        count + 1 if value <= noise_ratio else 0 for count, value in zip(before, found, strict=True)
    )
    after = state.boundary
    if statistics.step >= start * statistics.total_steps:
        while after < len(found) - 1 and quiet[after] >= patience:
            after += 1
    decision = FreezeDecision(found, noise_ratio, state.boundary, after)
    return replace(state, boundary=after, quiet=quiet), decision


def coherence(statistics: IntervalStatistics) -> tuple[float, ...]:
    """``|sum g|^2 / sum |g|^2`` of each block; 0 where there was no gradient."""
    return tuple(
        squared_sum / sum_of_squares if sum_of_squares else 0.0
        for squared_sum, sum_of_squares in zip(
            statistics.squared_sums, statistics.sums_of_squares, strict=True
        )
    )
