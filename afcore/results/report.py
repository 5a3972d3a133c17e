"""``report.json``: what a run and a comparison say about themselves, schema 1.

Seconds are wall-clock seconds, dollars are US, accuracies go from 0 to 1, epochs count from 1 and
steps from 1. ``null`` stands for what does not exist, and for an infinite or undefined number.
"""

import base64
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from afcore.freezing.policy import Interval, IntervalStatistics, RecordedNumber
from afcore.tasks.scores import Score

__all__ = [
    "REPORT_SCHEMA",
    "ClassReport",
    "ClassesReport",
    "CompareReport",
    "DataReport",
    "DecisionReport",
    "DifferenceReport",
    "EpochReport",
    "RunReport",
    "TotalsReport",
    "dated_decisions",
    "pack_array",
    "unpack_array",
]


REPORT_SCHEMA = 1
"""Fields may be added, with a default; what is renamed or removed makes it 2."""


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataReport(_Report):
    """Sizes of the splits, in rows: a question is one, with all its choices or windows.

    Of texts that are packed into sequences, each of these is one.
    """

    train_examples: int
    validation_examples: int
    test_examples: int
    revisions: dict[str, str] = Field(
        default={}, description="commits of the hub data sets that were read, by split"
    )


class DecisionReport(_Report):
    """One freeze decision."""

    step: int
    epoch: int
    eta: tuple[FiniteOrNone, ...] = Field(description="per block; null where frozen, or infinite")
    threshold: FiniteOrNone
    boundary_before: int
    boundary_after: int


def dated_decisions(intervals: Iterable[Interval]) -> list[DecisionReport]:
    """The decisions among them, in order."""
    return [
        DecisionReport(step=statistics.step, epoch=statistics.epoch, **vars(decision))
        for statistics, decision in ((one.statistics, one.decision) for one in intervals)
        if decision is not None
    ]


class EpochReport(_Report):
    """One epoch. ``train_seconds = prefix + suffix + read``; the others come on top.

    With several workers, seconds are those of the first, bytes those of all.
    """

    epoch: int
    num_steps: int = Field(description="steps trained in it")
    boundary_start: int
    boundary_end: int
    read_from: str = Field(description="`tokens` or `activations@k`")
    train_seconds: float
    prefix_seconds: float
    suffix_seconds: float
    read_seconds: float = Field(description="opening the set and gathering batches")
    checkpoint_seconds: float
    materialize_seconds: float
    evaluate_seconds: float
    train_loss: RecordedNumber
    validation: dict[str, RecordedNumber]
    candidate: bool = Field(
        True,
        description="whether it may be published: where training runs in cycles, the end of one",
    )
    activation_bytes_written: int
    activation_bytes_read: int = Field(description="gathered into batches, padding excluded")
    store_bytes_read: int = Field(description="of activations, out of the store")
    order: Literal["global", "windowed"] = Field(
        "global",
        description="`global`: all examples shuffled; `windowed`: memory did not hold the set, so "
        "shards were shuffled, and examples within a window of shards",
    )
    tier_bytes: dict[str, int] = Field(
        {}, description="of the set that was read: bytes by the tier that held them"
    )
    num_workers: int = Field(1, description="that trained it")
    launch_seconds: float = Field(
        0.0,
        description="from starting the workers, or beginning it here, until all have the model",
    )
    gradient_bytes_reduced: int = Field(
        0, description="that each worker gave to be averaged, in all steps"
    )
    cost_usd: float
    resumed: bool = Field(description="an earlier attempt had begun it, or ended before it")
    attempt: int = Field(description="which attempt at the run finished it, from 1")
    finished: float = Field(0.0, description="when, in seconds since 1970 (UTC); 0: not recorded")
    decision: str | None = Field(
        None, description="why it read what it read; null where no measurement decided"
    )
    predicted_train_seconds: float | None = Field(
        None, description="before it began, should its boundary stay"
    )
    predicted_materialize_seconds: float | None = Field(
        None, description="of the sets built in it, before they were"
    )
    resources: str | None = Field(
        None, description="why it had its workers; null where there was nothing to choose"
    )
    predicted_seconds: float | None = Field(
        None,
        description="of all of it, start and evaluation included, before it began, should its "
        "boundary stay",
    )
    predicted_cost_usd: float | None = Field(None, description="the same")
    prediction_error: float | None = Field(
        None,
        description="predicted train seconds, for the boundaries that it then had, over those "
        "measured, less 1",
    )

    @property
    def seconds(self) -> float:
        """From the start of its workers to its record."""
        return (
            self.launch_seconds
            + self.train_seconds
            + self.checkpoint_seconds
            + self.materialize_seconds
            + self.evaluate_seconds
        )


class ClassReport(_Report):
    """One class on the test set."""

    name: str
    precision: FiniteOrNone = Field(
        description="share of right answers among those that named it; null where none did"
    )
    recall: FiniteOrNone = Field(
        description="share of its rows that were answered right; null where it has none"
    )
    f1: FiniteOrNone = Field(
        description="harmonic mean of both; null where no row and no answer is of it, and such a "
        "class is not in `f1_macro`"
    )
    support: int = Field(description="its rows")
    predicted: int = Field(description="answers that named it")


class ClassesReport(_Report):
    """The test set class by class."""

    classes: list[ClassReport] = Field(description="in the order of the model's outputs")
    confusion: dict[str, dict[str, int]] = Field(
        description="rows by their class, then by the class that was answered; what is 0 is left "
        "out"
    )
    figure: str = Field(description="artifact of the MLflow run with a picture of it")


class TotalsReport(_Report):
    """The whole run. ``worker_seconds`` and ``wall_seconds`` count lost attempts too."""

    train_seconds: float
    materialize_seconds: float
    evaluate_seconds: float
    test_seconds: float = Field(0.0, description="of these, the test")
    decide_seconds: float = Field(
        0.0,
        description="spent only in order to decide, in none of the others: looks and measurements",
    )
    checkpoint_seconds: float
    wall_seconds: float
    worker_seconds: float
    lost_seconds: float = Field(
        description="of the wall seconds, in attempts cut short and with workers that died"
    )
    activation_bytes_written: int
    cost_usd: float
    best_epoch: int
    validation: dict[str, RecordedNumber] = Field(description="of the best epoch")
    test: dict[str, RecordedNumber] | None = Field(description="of the best epoch's model")
    test_rows: dict[str, str] | None = Field(
        None,
        description="what the main score is the mean of, or computed from, by test row in their "
        "order (`right`, `losses`, `labels`, `predicted`, ...), as base64; runs on the same rows "
        "are compared by it",
    )


class RunReport(_Report):
    """``autofreeze run``."""

    schema_: Literal[1] = Field(1, alias="schema")
    run_id: str
    mode: str
    seed: int
    status: Literal["finished"]
    model: str
    num_blocks: int
    data: DataReport
    epochs: list[EpochReport]
    policy: str | None = Field(None, description="`freezing.policy`; null in modes without one")
    eta_label: str = Field("eta", description="what the `eta` of its decisions is")
    decisions: list[DecisionReport]
    intervals: list[IntervalStatistics]
    totals: TotalsReport
    mlflow_run_id: str | None
    notes: list[str] = Field(description="what a reader should know, e.g. why nothing was cached")
    task: str = Field("text-classification", description="that was learned")
    score: str = Field(
        "accuracy",
        description="the main score, which chose the best epoch: `training.score`",
    )
    test_classes: ClassesReport | None = Field(
        None, description="class by class; null without a test set"
    )
    happened: str = Field(
        "", description="in a sentence: what was frozen and read, and why training ended"
    )

    @property
    def paid_seconds(self) -> float:
        """Training and cache building."""
        return self.totals.train_seconds + self.totals.materialize_seconds

    @property
    def main(self) -> Score:
        """The main score: how it is shown and compared."""
        from afcore.tasks.known_tasks import find_score  # torch, which a report needs not

        return find_score(self.task, self.score)

    @property
    def main_score(self) -> float:
        """The one of ``score``, on test data; where there is none, on validation."""
        return (self.totals.test or self.totals.validation)[self.score]


class DifferenceReport(_Report):
    """A mode's main score minus ``full``'s, paired over seeds; with one seed, over test rows.

    Over rows the interval is that of these two models on other rows like those. What another seed
    would have given it does not know.
    """

    mean: float = Field(
        description="over the pairs, in the unit of the score (0.01 is one point of accuracy)"
    )
    low: float = Field(description="lower end of the 95 % interval")
    high: float = Field(description="upper end")
    num_seeds: int = Field(description="pairs of runs; 1: the interval is over test rows")
    within_noise: bool = Field(description="the interval holds 0: no difference was shown")
    method: Literal["t", "bootstrap"] = Field(
        "t",
        description="of the interval: Student's t over the pairs; over test rows and for a score "
        "that is no mean over rows (`f1_macro`, `matthews`), percentiles of 999 bootstrap samples",
    )


class CompareReport(_Report):
    """``autofreeze compare``."""

    schema_: Literal[1] = Field(1, alias="schema")
    runs: list[RunReport]
    speedup: dict[str, float] = Field(
        description="full's train + materialize seconds over the mode's; median over seeds"
    )
    wall_speedup: dict[str, float] = Field(description="the same of wall seconds")
    difference: dict[str, DifferenceReport] = Field(
        default_factory=dict,
        description="test (else validation) score against full's",
    )
    score: str = Field("accuracy", description="the main score, by which runs are compared")
    best_mode: str | None = Field(
        None,
        description="the mode with the best mean of it over seeds, on test (else validation); "
        "null for one mode alone",
    )


def pack_array(values: npt.NDArray[Any]) -> str:
    """An array as text: its type in NumPy's short form and its shape, then its bytes as base64.

    Booleans are packed, eight to a byte.
    """
    packed = np.packbits(values) if values.dtype == np.bool_ else values
    shape = ",".join(map(str, values.shape))
    return f"{values.dtype.str}({shape}):{base64.b64encode(packed.tobytes()).decode()}"


def unpack_array(text: str) -> npt.NDArray[Any]:
    """What :func:`pack_array` was given."""
    head, _, packed = text.partition(":")
    kind, _, sizes = head.rstrip(")").partition("(")
    shape = tuple(map(int, sizes.split(",")))
    content = base64.b64decode(packed)
    if np.dtype(kind) == np.bool_:
        bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8))
        return bits[: math.prod(shape)].astype(bool).reshape(shape)
    return np.frombuffer(content, dtype=np.dtype(kind)).reshape(shape).copy()
