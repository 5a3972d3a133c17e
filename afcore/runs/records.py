"""What is committed about an epoch: small JSON records, each the proof that its step is done."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from afcore.digest import ContentDigest, RecipeDigest
from afcore.freezing.policy import PER_BLOCK, FreezeState
from afcore.planning.choose import EpochChoice
from afcore.results.report import DecisionReport, EpochReport, IntervalReport
from afcore.tasks.main_score import MAIN_SCORES
from afcore.training.trained import StepLog, TrainedEpoch

__all__ = [
    "CheckpointRecord",
    "EpochPlan",
    "EpochRecord",
    "LostTries",
    "LostTry",
    "NextEpoch",
    "PartialRecord",
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


class NextEpoch(_Record):
    """How the epoch to come is to be trained.

    ``choice`` says why, where measurements decided; ``num_workers`` are started, or fewer when the
    epoch is tried again after some were lost; ``notes`` go to the run's report.
    """

    read_from: SetReference | None
    choice: EpochChoice | None = None
    num_workers: int = 1
    micro_batch: int | None = None
    notes: list[str] = []


class EpochPlan(NextEpoch):
    """``plan.json``: recorded before the epoch and reused on restart.

    So nothing that is measured on another day changes what is trained. ``window_shards`` is the
    number of shards within which examples are shuffled (None: all examples are).
    """

    started: float
    window_shards: int | None = None

    @property
    def order(self) -> Literal["global", "windowed"]:
        """How its examples are shuffled; windowed when memory does not hold the set."""
        return "windowed" if self.window_shards else "global"


class PartialRecord(_Record):
    """``partial.json``: the state within an epoch, and what was trained of it before it stopped.

    ``sums`` names the gradients that the interval has added up (None: it had just begun, no policy
    decides, or nothing is left to decide); ``seconds`` are those of training and saving, by
    attempt.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    step: int
    freeze: FreezeState
    parts: dict[str, ContentDigest]
    sums: ContentDigest | None
    trained: TrainedEpoch
    seconds: dict[int, float]
    checkpoint_seconds: float


class CheckpointRecord(_Record):
    """``checkpoint.json``: the state after an epoch's training, and what the training measured.

    ``report`` is filled as far as the training; ``read_from`` is what it read; ``materialize`` is
    the decision to write the set at the new boundary, ``next`` how the next epoch is to be trained;
    ``earlier_seconds`` are those of attempts that were stopped within the epoch; ``notes`` go to
    the run's report.
    """

    step: int
    freeze: FreezeState
    parts: dict[str, ContentDigest]
    materialize: bool
    read_from: SetReference | None
    next: NextEpoch | None
    notes: list[str] = []
    report: EpochReport
    decisions: list[DecisionReport]
    intervals: list[IntervalReport]
    interval_times: list[float]
    steps: list[StepLog]
    earlier_seconds: dict[int, float] = {}

    @property
    def seconds(self) -> dict[int, float]:
        """Of the epoch up to here, by attempt."""
        seconds, trained = dict(self.earlier_seconds), self.report
        here = trained.seconds - sum(self.earlier_seconds.values())
        seconds[trained.attempt] = seconds.get(trained.attempt, 0.0) + here
        return seconds


class EpochRecord(_Record):
    """``report.json``: the epoch is done; ``next`` is None after the last."""

    report: EpochReport
    next: NextEpoch | None
    finished: float


class LostTry(_Record):
    """Workers of an attempt that began an epoch and died: seconds that were not committed."""

    attempt: int
    num_workers: int
    seconds: float


class LostTries(_Record):
    """``lost.json``: of an epoch."""

    tries: list[LostTry]


def best_epoch(reports: list[EpochReport], score: str) -> EpochReport:
    """The epoch with the best ``score`` on validation; among equals the one with the least loss.

    One whose score or loss is no number is the last to be taken.

    Within a cycle the learning rate is still high, and the model not what it will be at its end: so
    where a cycle has ended, only such ends count.
    """
    candidates = [report for report in reports if report.candidate] or reports
    main, loss = MAIN_SCORES[score], MAIN_SCORES["loss"]
    return max(candidates, key=lambda r: (main.quality(r.validation), loss.quality(r.validation)))


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
            ends_cycle=interval.statistics.ends_cycle,
            chance_loss=interval.statistics.chance_loss,
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
