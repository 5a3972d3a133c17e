"""What a freeze policy sees, remembers and says. No I/O, no torch.

A boundary ``k`` means that blocks ``0..k-1`` and the embeddings are frozen. It only grows, and
never past ``L - 1``: the last block always trains.
"""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["PER_BLOCK", "FreezeDecision", "FreezePolicy", "FreezeState", "IntervalStatistics"]


@dataclass(frozen=True)
class IntervalStatistics:
    """What a decision may look at.

    With ``g`` a gradient tensor and sums over the steps of the interval; L numbers each, 0 for
    frozen blocks, and for the last one too where it alone trains.

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
        epoch: it belongs to, from 1.
        num_epochs: of the whole training.
        train_loss: mean over the interval's steps; in epoch 1 of examples never seen before.
        train_loss_error: its standard error.
        validation_losses: of the epochs so far, in order; this one's is among them when the
            interval is its last.
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
    epoch: int
    num_epochs: int
    train_loss: float
    train_loss_error: float
    validation_losses: tuple[float, ...]


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
        previous: L numbers, the last interval's ``d_l`` per step; None before the first interval
            (``gradient_norm``).
        quiet: L numbers, intervals that each block has been quiet for (``guarded``).
        losses: mean training loss of each interval of epoch 1 and its standard error
            (``guarded``).
        settled: whether the loss on unseen examples has stopped falling (``guarded``).
    """

    boundary: int = 0
    previous: tuple[float, ...] | None = None
    quiet: tuple[int, ...] | None = None
    losses: tuple[tuple[float, float], ...] = ()
    settled: bool = False


@dataclass(frozen=True)
class FreezeDecision:
    """One decision, as logged.

    Attributes:
        eta: L numbers, what the policy looks at: the paper's eta, or the coherence (``guarded``);
            NaN for blocks that were frozen, or for policies that look at nothing.
        threshold: what they are compared with; NaN for policies that have none.
        boundary_before: before it.
        boundary_after: after it.
    """

    eta: tuple[float, ...]
    threshold: float
    boundary_before: int
    boundary_after: int


FreezePolicy = Callable[
    [FreezeState, IntervalStatistics], tuple[FreezeState, FreezeDecision | None]
]
