"""What a freeze policy sees, remembers, says and has to be. No I/O, no torch.

A boundary ``k`` means that blocks ``0..k-1`` and the embeddings are frozen. It never grows past
``L - 1``: the last block always trains. It may fall at the end of an epoch (**thaw**).
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from afcore.freezing.settling import CYCLE_EPOCHS
from afcore.number_texts import numbers_as_texts

__all__ = [
    "PER_BLOCK",
    "FreezeDecision",
    "FreezePolicy",
    "FreezeState",
    "Interval",
    "IntervalStatistics",
    "RecordedNumber",
    "by_epoch",
    "check_depth",
    "loss_statistics",
]


def _unpacked(memory: object) -> object:
    return json.loads(memory) if isinstance(memory, str) else memory


# In a record as a text of its own: JSON has no infinity, which a memory may hold, and a record
# neither knows nor changes what is in it.
_Memory = Annotated[
    dict[str, Any], BeforeValidator(_unpacked), PlainSerializer(json.dumps, when_used="json")
]


def _nan_for_null(value: object) -> object:
    return math.nan if value is None else value


RecordedNumber = Annotated[float, BeforeValidator(_nan_for_null)]
"""JSON has ``null`` for what is infinite or undefined, which is read as NaN."""


def loss_statistics(losses: Sequence[float]) -> dict[str, float]:
    """Of an interval: ``train_loss``, the mean over its steps, and ``train_loss_error``.

    The latter is the standard error of the mean; 0 of a single step.
    """
    count = len(losses)
    error = float(np.std(losses, ddof=1) / math.sqrt(count)) if count > 1 else 0.0
    return {"train_loss": float(np.mean(losses)), "train_loss_error": error}


class IntervalStatistics(BaseModel):
    """Statistics of one interval: all that a policy sees, as recorded, for replaying others."""

    # With ``g`` a gradient tensor and sums over the steps of the interval; L numbers a block.

    model_config = ConfigDict(frozen=True)

    step: int = Field(description="steps done at its end, since the training began")
    epoch: int = Field(description="that it belongs to, from 1")
    num_steps: int = Field(description="steps in it, at least 1")
    total_steps: int = Field(description="of the whole training, if it is not stopped before")
    num_epochs: int = Field(description="likewise")
    learning_rate: float = Field(description="mean over it")
    train_loss: RecordedNumber = Field(
        description="mean over its steps; in epoch 1 of examples never seen before; no number in a "
        "`Trainer` whose loss is made outside of the model"
    )
    train_loss_error: RecordedNumber = Field(description="standard error of that mean")
    cycle_share: float = Field(
        0.0,
        description="share of the cycle of the learning rate that is done after its epoch: at 1 "
        "the rate has fallen to the end of its schedule, which it does again and again where "
        "training may stop early; without cycles, share of all epochs",
    )
    chance_loss: float = Field(
        0.0,
        description="the lowest mean training loss of answers that do not look at the example (of "
        "one label: the classes' shares); 0 where it is not known; a `Trainer`'s is of "
        "classifiers with one label alone",
    )
    validation_losses: tuple[RecordedNumber, ...] = Field(
        description="of the epochs so far, in order; this one's is among them when the interval is "
        "its last; in a `Trainer` of those that it evaluated, maybe none"
    )
    validation_errors: tuple[RecordedNumber, ...] = Field(
        (),
        description="as the losses, 1 less the main score, where that has a say in when training "
        "has settled; else none",
    )
    gradient_norms: tuple[float, ...] = Field(
        description="per block, d_l: L1 norms of the gradients summed over the interval; 0 where "
        "frozen, and where the last block alone trains; as in the next four"
    )
    first_half_norms: tuple[float, ...] = Field(description="the same over its first half")
    second_half_norms: tuple[float, ...] = Field(description="the same over its second half")
    squared_sums: tuple[float, ...] = Field(description="squared L2 norm of the summed gradients")
    sums_of_squares: tuple[float, ...] = Field(description="sum of the steps' squared L2 norms")

    @property
    def ends_cycle(self) -> bool:
        """Whether the learning rate had fallen to the end of its schedule."""
        return self.cycle_share == 1.0


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
    """What is frozen, and all that a policy remembers between decisions.

    Attributes:
        boundary: blocks frozen.
        rate: factor on the peak learning rate of what trains; 1 for the configured one.
        settled: whether more epochs would gain too little: where ``training.stop`` allows it,
            training ends with the epoch, at the end of a cycle of the learning rate alone.
        memory: the policy's, opaque to everybody else: of JSON's types (lists, not tuples), and
            numbers may be infinite. Recorded with every commit; never changed in place.
    """

    boundary: int = 0
    rate: float = 1.0
    settled: bool = False
    memory: _Memory = field(default_factory=dict)


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


@dataclass(frozen=True)
class Interval:
    """One interval as recorded: its statistics, and the decision at its end.

    Attributes:
        time: of its end, in seconds since the epoch (UTC).
        statistics: of it.
        decision: None where none was due.
    """

    time: float
    statistics: IntervalStatistics
    decision: FreezeDecision | None


class FreezePolicy(BaseModel, ABC):
    """Which blocks stop training, and when."""

    # A section of the configuration is the policy itself. In a subclass: ``policy`` with its name,
    # its keys with ranges and descriptions, and the methods below.

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_extra=numbers_as_texts
    )

    keeps_statistics: ClassVar[bool] = True
    """Whether gradients are added up.

    Without it an interval is an epoch, after which ``decide`` is called; losses are as ever, and
    the numbers per block are L zeros. A replay on a run with several intervals an epoch shows it
    the last of them.
    """

    decides: ClassVar[bool] = True
    """Whether ``decide`` is called; without it the first state stays."""

    starts_frozen: ClassVar[bool] = False
    """Whether blocks are frozen before the first step."""

    solves_head: ClassVar[bool] = False
    """Whether the head's last layer is solved before the first step (afcore/training/head.py)."""

    eta_label: ClassVar[str] = "eta: change of the gradient norm"
    """What the ``eta`` of its decisions is, for figures."""

    stops: ClassVar[bool] = False
    """Whether it says when training has settled, so that by default training may stop."""

    policy: str
    intervals_per_epoch: int = Field(5, ge=1, description="freeze decisions per epoch")

    @property
    def cycle_epochs(self) -> int:
        """Epochs of a cycle of the learning rate, where training may stop after each."""
        return CYCLE_EPOCHS

    def begin(self, num_blocks: int, num_pretrained: int | None = None) -> FreezeState:
        """The state before the first step; nothing is frozen, unless a policy says otherwise.

        Args:
            num_blocks: L.
            num_pretrained: blocks from the bottom up that were trained before; None: all.

        Raises:
            ValueError: where a setting leaves none of ``num_blocks`` blocks to train.
        """
        return FreezeState()

    @abstractmethod
    def decide(
        self, state: FreezeState, statistics: IntervalStatistics
    ) -> tuple[FreezeState, FreezeDecision | None]:
        """Called after every interval, the last one of an epoch after its validation.

        A policy that keeps statistics is not called any more once only the last block trains.
        Pure: equal arguments give equal results, on every worker and in every replay.

        Args:
            state: as ``begin`` or the decision before left it.
            statistics: of the interval; L is ``len(statistics.gradient_norms)``, for every policy.

        Returns:
            The new state, whole: a rate or a memory that is not handed on is lost. Nobody keeps its
            boundary below L, or lets it fall at the end of an epoch only, but the policy. And the
            decision as it is to be logged, also where the boundary stays; None where nothing was
            looked at.
        """

    def possible_traces(
        self, num_blocks: int, num_epochs: int, cycle_epochs: int | None = None
    ) -> dict[str, list[list[int]]] | None:
        """The ends of what may be decided, for a plan: boundaries by epoch and interval.

        Each trace by what it is, in words: one where the policy leaves no choice, else both ends,
        between which all lies that it may decide. Each epoch has ``intervals_per_epoch``
        boundaries, equal ones where a policy decides once an epoch. A boundary is the one in force
        during the interval: what the first decision changes shows in the second. That training may
        stop after one cycle is added by who asks, with the boundaries of the first trace, unless
        one of them is shorter: a policy may know better. None: nothing is known, so a plan
        forecasts nothing that depends on it.

        Args:
            num_blocks: L.
            num_epochs: that are begun.
            cycle_epochs: after which training may stop; None: all are one cycle.
        """
        return None


def check_depth(depth: int | None, num_blocks: int) -> None:
    """For policies with a key ``depth``.

    Raises:
        ValueError: for one that leaves no block to train.
    """
    if depth is not None and depth > num_blocks - 1:
        raise ValueError(
            f"freezing.depth is {depth}, but of {num_blocks} blocks at most {num_blocks - 1} can "
            "be frozen: the last one always trains"
        )


def by_epoch(boundaries: Sequence[int], intervals_per_epoch: int) -> list[list[int]]:
    """The boundaries of all intervals as a trace."""
    starts = range(0, len(boundaries), intervals_per_epoch)
    return [list(boundaries[start : start + intervals_per_epoch]) for start in starts]
