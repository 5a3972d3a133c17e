"""Freeze policies as pure functions: statistics + state -> state (paper, section 3).

No I/O, no torch. A boundary ``k`` means that blocks ``0..k-1`` and the embeddings are frozen. It
only grows, and never past ``L - 1``: the last block always trains.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

__all__ = [
    "PER_BLOCK",
    "FreezeDecision",
    "FreezePolicy",
    "FreezeState",
    "IntervalStatistics",
    "choose_policy",
    "gradient_norm_test",
    "linear_schedule",
]


@dataclass(frozen=True)
class IntervalStatistics:
    """What a decision may look at.

    With ``g`` a gradient tensor and sums over the steps of the interval; L numbers each, 0 for
    frozen blocks.

    Attributes:
        gradient_norms: ``d_l``, the sum over the block's parameters of ``|sum g|_1`` (signed sums).
        first_half_norms: the same over the first half of the interval's steps.
        second_half_norms: the same over the second half.
        squared_sums: ``|sum g|_2 ** 2`` over the block.
        sums_of_squares: ``sum |g|_2 ** 2`` over the block.
        num_steps: steps in the interval, at least 1.
        step: steps done since the training began.
        total_steps: steps of the whole training.
        learning_rate: mean over the interval.
    """

    gradient_norms: tuple[float, ...]
    first_half_norms: tuple[float, ...]
    second_half_norms: tuple[float, ...]
    squared_sums: tuple[float, ...]
    sums_of_squares: tuple[float, ...]
    num_steps: int
    step: int
    total_steps: int
    learning_rate: float


PER_BLOCK = (
    "gradient_norms",
    "first_half_norms",
    "second_half_norms",
    "squared_sums",
    "sums_of_squares",
)
"""Names of the statistics that are one number a block."""


@dataclass(frozen=True)
class FreezeState:
    """All that a policy remembers between decisions.

    Attributes:
        boundary: blocks frozen.
        previous: L numbers, the last interval's ``d_l`` per step; None before the first interval.
    """

    boundary: int = 0
    previous: tuple[float, ...] | None = None


@dataclass(frozen=True)
class FreezeDecision:
    """One decision, as logged.

    Attributes:
        eta: L numbers; NaN for blocks that were frozen, or for policies that do not use it.
        threshold: NaN for policies that have none.
        boundary_before: before it.
        boundary_after: after it.
    """

    eta: tuple[float, ...]
    threshold: float
    boundary_before: int
    boundary_after: int


_PRACTICALLY_INFINITE = 1e290

FreezePolicy = Callable[
    [FreezeState, IntervalStatistics], tuple[FreezeState, FreezeDecision | None]
]


def gradient_norm_test(
    state: FreezeState, statistics: IntervalStatistics, *, percentile: float
) -> tuple[FreezeState, FreezeDecision | None]:
    """The paper's test: freeze, from the bottom, blocks whose gradient changes least.

    ``eta_l = |d_l(previous) - d_l(now)| / d_l(previous)``. The threshold is the given percentile
    of eta over the blocks still training; the new first trainable block is the first one, from
    the bottom, whose eta is at or above it. No decision at the first interval.

    Paper: raw sums. Here: ``d_l`` divided by the interval's steps, because an epoch's steps need
    not divide evenly. Silent in the paper: 0/0 counts as 0, x/0 as infinity; numpy's linear
    percentile.

    Args:
        state: before the decision.
        statistics: of the interval that just ended.
        percentile: 0 to 100; the paper's N is 50.

    Returns:
        The new state, and the decision unless this was the first interval.
    """
    now = tuple(norm / statistics.num_steps for norm in statistics.gradient_norms)
    if state.previous is None:
        return replace(state, previous=now), None
    start = state.boundary
    eta = [math.nan] * len(now)
    for block in range(start, len(now)):
        eta[block] = _relative_change(state.previous[block], now[block])
    threshold = _percentile(eta[start:], percentile)
    after = next(block for block in range(start, len(now)) if eta[block] >= threshold)
    decision = FreezeDecision(tuple(eta), threshold, start, after)
    return FreezeState(boundary=after, previous=now), decision


def linear_schedule(
    state: FreezeState, statistics: IntervalStatistics, *, depth: int
) -> tuple[FreezeState, FreezeDecision | None]:
    """Freeze in proportion to the steps done: ``floor(depth * step / total_steps)`` blocks."""
    wanted = math.floor(depth * statistics.step / statistics.total_steps)
    num_blocks = len(statistics.gradient_norms)
    after = max(state.boundary, min(wanted, num_blocks - 1))
    decision = FreezeDecision((math.nan,) * num_blocks, math.nan, state.boundary, after)
    return replace(state, boundary=after), decision


def choose_policy(
    name: str, *, num_blocks: int, percentile: float, depth: int | None
) -> tuple[FreezePolicy, FreezeState]:
    """The policy of a configuration, with its first state.

    Args:
        name: ``gradient_norm``, ``static``, ``linear`` or ``none``.
        num_blocks: L.
        percentile: for ``gradient_norm``.
        depth: blocks frozen from the start (``static``, default half of them) or at the end
            (``linear``, default all but one).

    Raises:
        ValueError: for a depth that leaves no block to train.
    """
    if depth is not None and depth > num_blocks - 1:
        raise ValueError(
            f"freezing.depth is {depth}, but of {num_blocks} blocks at most {num_blocks - 1} can "
            "be frozen: the last one always trains"
        )
    if name == "gradient_norm":
        return partial(gradient_norm_test, percentile=percentile), FreezeState()
    if name == "linear":
        final = num_blocks - 1 if depth is None else depth
        return partial(linear_schedule, depth=final), FreezeState()
    if name == "static":
        return _no_decision, FreezeState(num_blocks // 2 if depth is None else depth)
    return _no_decision, FreezeState()


def _no_decision(
    state: FreezeState, statistics: IntervalStatistics
) -> tuple[FreezeState, FreezeDecision | None]:
    return state, None


def _relative_change(before: float, now: float) -> float:
    change = abs(before - now)
    if before == 0:
        return 0.0 if change == 0 else math.inf
    return change / before


def _percentile(values: Sequence[float], percentile: float) -> float:
    """``numpy.percentile``, which gives NaN as soon as it must interpolate at an infinity."""
    largest = np.finfo(np.float64).max
    found = float(np.percentile(np.minimum(values, largest), percentile))
    return math.inf if found > _PRACTICALLY_INFINITE else found
