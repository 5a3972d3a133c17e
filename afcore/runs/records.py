"""What is committed about an epoch: small JSON records, each the proof that its step is done."""

from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from afcore.digest import ContentDigest, RecipeDigest
from afcore.freezing.policy import FreezeState
from afcore.planning.choose import EpochChoice
from afcore.results.report import EpochReport
from afcore.runs.run import Run, check_lease, read_record
from afcore.tasks.scores import LOG_LOSS, Score
from afcore.training.trained import TrainedEpoch

__all__ = [
    "RECORD_NAMES",
    "CheckpointRecord",
    "EpochPlan",
    "EpochStart",
    "LostTries",
    "LostTry",
    "PartialRecord",
    "SetReference",
    "StateRecord",
    "best_epoch",
    "commit_record",
    "done_reports",
    "plan_of",
    "record_of",
]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")


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
    """How an epoch is to be trained: decided once, at the end of the one before (:func:`plan_of`).

    So nothing that is measured on another day changes what is trained. ``build``: the set that it
    reads is built before the epoch before is done, else when it is not there. ``choice`` says why,
    where measurements decided; ``num_workers`` are started, or fewer when the epoch is tried again
    after some were lost; ``notes`` go to the run's report.
    """

    read_from: SetReference | None
    build: bool = False
    choice: EpochChoice | None = None
    num_workers: int = 1
    micro_batch: int | None = None
    notes: list[str] = []

    @property
    def source(self) -> str:
        """What it reads, as reported."""
        return f"activations@{self.read_from.boundary}" if self.read_from else "tokens"

    def reasons(self) -> list[str]:
        """Why it reads that, and why on so many workers, as far as measurements decided it."""
        texts = list(self.notes)
        if self.choice is not None and (text := self.choice.source_text()):
            texts.append(text)
        if self.choice is not None and self.choice.workers is not None:
            texts.append(self.choice.workers.text())
        return texts


class EpochStart(_Record):
    """``started.json``: the epoch has begun; the order of its examples, reused on restart.

    ``window_shards`` is the number of shards within which examples are shuffled (None: all examples
    are, since memory holds the set).
    """

    epoch: int
    started: float
    window_shards: int | None = None

    @property
    def order(self) -> Literal["global", "windowed"]:
        """How its examples are shuffled; windowed when memory does not hold the set."""
        return "windowed" if self.window_shards else "global"


class StateRecord(_Record):
    """The state after some or all steps of an epoch, and what was trained of it until then.

    ``seconds`` are those of the epoch up to here, by attempt; ``num_workers`` trained it, the last
    part of it where that was tried again on fewer.
    """

    epoch: int
    num_workers: int
    step: int
    freeze: FreezeState
    parts: dict[str, ContentDigest]
    trained: TrainedEpoch
    seconds: dict[int, float]
    checkpoint_seconds: float

    @property
    def boundary_start(self) -> int:
        """Of the epoch."""
        return self.trained.steps[0].boundary


class PartialRecord(StateRecord):
    """``partial.json``: the state within an epoch that was stopped.

    ``sums`` names the gradients that the interval has added up (None: it had just begun, no policy
    decides, or nothing is left to decide).
    """

    sums: ContentDigest | None


class CheckpointRecord(StateRecord):
    """``checkpoint.json``: the state after an epoch's training, and how to go on.

    ``build_seconds`` and ``built_bytes`` are of the set that it reads, where it was built in it;
    ``prediction_error`` and ``candidate`` as reported; ``next`` is None after the last epoch.
    """

    attempt: int
    launch_seconds: float
    build_seconds: float
    built_bytes: int
    prediction_error: float | None
    candidate: bool
    next: EpochPlan | None

    def metrics(self) -> list[tuple[str, float, float, int]]:
        """Of its steps and decisions, as :data:`afcore.tracking.tracker.Metric`."""
        metrics: list[tuple[str, float, float, int]] = []
        for step in self.trained.steps:
            metrics += [
                ("train/loss", step.loss, step.time, step.step),
                ("train/learning_rate", step.learning_rate, step.time, step.step),
            ]
        boundary = self.boundary_start
        for interval in self.trained.intervals:
            at, decision = (interval.time, interval.statistics.step), interval.decision
            boundary = decision.boundary_after if decision else boundary
            metrics.append(("freeze/boundary", boundary, *at))
            for block, eta in enumerate(decision.eta if decision else ()):
                metrics.append((f"freeze/eta_block_{block:02d}", eta, *at))
        return metrics


class LostTry(_Record):
    """Workers of an attempt that began an epoch and died: seconds that were not committed."""

    attempt: int
    num_workers: int
    seconds: float


class LostTries(_Record):
    """``lost.json``: of an epoch."""

    epoch: int
    tries: list[LostTry]


RECORD_NAMES: dict[type[BaseModel], str] = {
    EpochPlan: "next",
    EpochStart: "started",
    PartialRecord: "partial",
    CheckpointRecord: "checkpoint",
    EpochReport: "report",
    LostTries: "lost",
}
"""What is committed of an epoch, by its name in the folder of the epoch."""
_Kind = TypeVar("_Kind", bound=BaseModel)


def record_of(
    run: Run, epoch: int, kind: type[_Kind], *, replaceable: bool = False
) -> _Kind | None:
    """An epoch's record of this kind, or None; as :func:`afcore.runs.run.read_record`."""
    key = run.epoch_key(epoch, RECORD_NAMES[kind])
    return read_record(run.storage, key, kind, replaceable=replaceable)


def commit_record(
    run: Run,
    record: EpochStart | StateRecord | EpochReport | EpochPlan | LostTries,
    attempt: int | None = None,
) -> None:
    """Commit an epoch's record; ``attempt`` must still hold the lease, else the caller does.

    Raises:
        LeaseLostError: when another process took over.
    """
    if attempt is not None:
        check_lease(run, attempt)
    epoch = 0 if isinstance(record, EpochPlan) else record.epoch
    key = run.epoch_key(epoch, RECORD_NAMES[type(record)])
    run.storage.put(key, record.model_dump_json().encode())


def plan_of(run: Run, epoch: int) -> EpochPlan | None:
    """How an epoch is to be trained; None: not yet decided, or the one before was the last.

    Of the first epoch in ``000/next.json``, of others in the checkpoint of the one before.
    """
    if epoch == 1:
        return record_of(run, 0, EpochPlan)
    before = record_of(run, epoch - 1, CheckpointRecord)
    return before.next if before is not None else None


def done_reports(run: Run, num_epochs: int) -> list[EpochReport]:
    """Of the first epochs, as far as they are done."""
    found = (record_of(run, epoch, EpochReport) for epoch in range(1, num_epochs + 1))
    return [report for report in found if report is not None]


def best_epoch(reports: list[EpochReport], score: Score) -> EpochReport:
    """The epoch with the best ``score`` on validation; among equals the one with the least loss.

    One whose score or loss is no number is the last to be taken.

    Within a cycle the learning rate is still high, and the model not what it will be at its end: so
    where a cycle has ended, only such ends count.
    """
    candidates = [report for report in reports if report.candidate] or reports
    return max(
        candidates, key=lambda r: (score.quality(r.validation), LOG_LOSS.quality(r.validation))
    )
