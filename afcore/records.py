"""What is committed about an epoch: small JSON records, each the proof that its step is done."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from afcore.digest import ContentDigest, RecipeDigest
from afcore.freezing.decisions import PER_BLOCK, FreezeState
from afcore.planning.source import SourceDecision
from afcore.report import DecisionReport, EpochReport, IntervalReport
from afcore.training import StepLog, TrainedEpoch

__all__ = [
    "CheckpointRecord",
    "EpochPlan",
    "EpochRecord",
    "SetReference",
    "best_epoch",
    "decision_reports",
    "interval_reports",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class SetReference(_Record):
    """An activation set to read from: all that is needed to build it again."""

    folder: str
    key: RecipeDigest
    lineage: list[int]

    @property
    def boundary(self) -> int:
        """Of the set."""
        return self.lineage[-1]


class EpochPlan(_Record):
    """``plan.json``: recorded before the epoch and reused on restart.

    So nothing that is measured on another day changes what is trained. ``decision`` is None where
    nothing was measured; ``window_shards`` is the number of shards within which examples are
    shuffled (None: all examples are); ``notes`` go to the run's report.
    """

    read_from: SetReference | None
    started: float
    window_shards: int | None = None
    decision: SourceDecision | None = None
    notes: list[str] = []

    @property
    def order(self) -> Literal["global", "windowed"]:
        """How its examples are shuffled; windowed when memory does not hold the set."""
        return "windowed" if self.window_shards else "global"


class CheckpointRecord(_Record):
    """``checkpoint.json``: the state after an epoch's training, and what the training measured.

    ``report`` is filled as far as the training; ``materialize`` is the decision to write the set
    at the new boundary, ``decision`` what it was taken from (None where nothing was measured);
    ``notes`` go to the run's report.
    """

    step: int
    freeze: FreezeState
    parts: dict[str, ContentDigest]
    materialize: bool
    decision: SourceDecision | None = None
    notes: list[str] = []
    report: EpochReport
    decisions: list[DecisionReport]
    intervals: list[IntervalReport]
    interval_times: list[float]
    steps: list[StepLog]


class EpochRecord(_Record):
    """``report.json``: the epoch is done; ``read_next_from`` is what the next one reads."""

    report: EpochReport
    read_next_from: SetReference | None
    finished: float
    next_decision: SourceDecision | None = None


def best_epoch(reports: list[EpochReport]) -> EpochReport:
    """The epoch with the best validation accuracy; among equals the one with the least loss."""
    return max(reports, key=lambda r: (r.validation["accuracy"], -r.validation["loss"]))


def interval_reports(trained: TrainedEpoch) -> list[IntervalReport]:
    """An epoch's intervals as reported."""
    return [
        IntervalReport(
            step=interval.statistics.step,
            epoch=interval.epoch,
            num_steps=interval.statistics.num_steps,
            learning_rate=interval.statistics.learning_rate,
            train_loss=interval.statistics.train_loss,
            train_loss_error=interval.statistics.train_loss_error,
            **{name: list(getattr(interval.statistics, name)) for name in PER_BLOCK},
        )
        for interval in trained.intervals
    ]


def decision_reports(trained: TrainedEpoch) -> list[DecisionReport]:
    """An epoch's decisions as reported."""
    return [
        DecisionReport(
            step=interval.statistics.step,
            epoch=interval.epoch,
            eta=list(interval.decision.eta),
            threshold=interval.decision.threshold,
            boundary_before=interval.decision.boundary_before,
            boundary_after=interval.decision.boundary_after,
        )
        for interval in trained.intervals
        if interval.decision is not None
    ]
