"""What an epoch of training changes, and what it gives."""

from dataclasses import dataclass, field

import numpy as np

from afcore.freezing.policy import FreezeState, Interval
from afcore.training.gradients import GradientSums
from afcore.training.optimizer import SuffixOptimizer

__all__ = ["StepLog", "TrainedEpoch", "TrainingState"]


@dataclass
class TrainingState:
    """What an epoch changes; ``sums`` are there where it was stopped within an interval."""

    optimizer: SuffixOptimizer
    freeze: FreezeState
    step: int = 0
    sums: GradientSums | None = None


@dataclass(frozen=True)
class StepLog:
    """One step; ``time`` in seconds since the epoch (UTC)."""

    step: int
    time: float
    loss: float
    learning_rate: float
    boundary: int


@dataclass
class TrainedEpoch:
    """What an epoch of training gives, beside the changed state; of part of one, if it stopped.

    Tokens (times blocks, without padding) and bytes are those of all workers together, in
    ``tier_bytes`` by the tier that held the set; seconds, backward passes and ``bytes_reduced`` (of
    gradients, averaged over the workers) of this one. ``found_head`` says that the head was solved
    before, for another run.
    """

    prefix_seconds: float = 0.0
    suffix_seconds: float = 0.0
    read_seconds: float = 0.0
    train_seconds: float = 0.0
    activation_bytes_read: int = 0
    store_bytes_read: int = 0
    tier_bytes: dict[str, int] = field(default_factory=dict)
    bytes_reduced: int = 0
    num_passes: int = 0
    found_head: bool = False
    evaluate_seconds: float = 0.0
    validation: dict[str, float] = field(default_factory=dict)
    steps: list[StepLog] = field(default_factory=list)
    intervals: list[Interval] = field(default_factory=list)

    def since(self, earlier: "TrainedEpoch") -> "TrainedEpoch":
        """Steps after those of ``earlier``, and this worker's seconds and passes in them."""
        names = ("prefix_seconds", "suffix_seconds", "read_seconds", "train_seconds", "num_passes")
        later = {name: getattr(self, name) - getattr(earlier, name) for name in names}
        return TrainedEpoch(
            **later,
            evaluate_seconds=self.evaluate_seconds,
            steps=self.steps[len(earlier.steps) :],
        )

    @property
    def mean_loss(self) -> float:
        """Mean over the steps."""
        return float(np.mean([step.loss for step in self.steps]))
