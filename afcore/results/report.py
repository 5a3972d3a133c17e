"""``report.json``: what a run and a comparison say about themselves, schema 1.

Seconds are wall-clock seconds, dollars are US, accuracies go from 0 to 1, epochs count from 1 and
steps from 1. ``null`` stands for what does not exist, and for an infinite or undefined number.
"""

import base64
import math
import statistics
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from afcore.results.paired import PairedDifference, paired_difference

__all__ = [
    "CompareReport",
    "DataReport",
    "DecisionReport",
    "DifferenceReport",
    "EpochReport",
    "IntervalReport",
    "RunReport",
    "TotalsReport",
    "compare_report",
    "pack_right",
    "paired_runs",
    "row_difference",
    "unpack_right",
]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteOrNone = Annotated[float | None, BeforeValidator(_finite)]


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataReport(_Report):
    """Sizes of the splits."""

    train_examples: int
    validation_examples: int
    test_examples: int


class IntervalReport(_Report):
    """Statistics of one interval: all that a policy sees, for replaying others on them."""

    step: int = Field(description="steps done at its end")
    epoch: int
    num_steps: int
    learning_rate: float = Field(description="mean over it")
    train_loss: float = Field(description="mean over its steps")
    train_loss_error: float = Field(description="standard error of that mean")
    ends_cycle: bool = Field(
        False, description="the learning rate had fallen to the end of its schedule"
    )
    chance_loss: float = Field(
        0.0, description="of always answering with the classes' shares in the training set"
    )
    gradient_norms: list[float] = Field(
        description="per block, d_l: L1 norms of the gradients summed over the interval; 0 where "
        "frozen, and where the last block alone trains; as in the next four"
    )
    first_half_norms: list[float] = Field(description="the same over its first half")
    second_half_norms: list[float] = Field(description="the same over its second half")
    squared_sums: list[float] = Field(description="squared L2 norm of the summed gradients")
    sums_of_squares: list[float] = Field(description="sum of the steps' squared L2 norms")


class DecisionReport(_Report):
    """One freeze decision."""

    step: int
    epoch: int
    eta: list[FiniteOrNone] = Field(description="per block; null where frozen, or infinite")
    threshold: FiniteOrNone
    boundary_before: int
    boundary_after: int


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
    train_loss: float
    validation: dict[str, float]
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
    validation: dict[str, float] = Field(description="of the best epoch")
    test: dict[str, float] | None = Field(description="of the best epoch's model")
    test_right: str | None = Field(
        None,
        description="whether its answer was right, a bit a test row in their order, as base64; "
        "runs on the same rows are compared by it",
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
    intervals: list[IntervalReport]
    totals: TotalsReport
    mlflow_run_id: str
    notes: list[str] = Field(description="what a reader should know, e.g. why nothing was cached")
    happened: str = Field(
        "", description="in a sentence: what was frozen and read, and why training ended"
    )

    @property
    def paid_seconds(self) -> float:
        """Training and cache building."""
        return self.totals.train_seconds + self.totals.materialize_seconds

    @property
    def accuracy(self) -> float:
        """On test data; where there is none, on validation."""
        return (self.totals.test or self.totals.validation)["accuracy"]


class DifferenceReport(_Report):
    """A mode's accuracy minus that of ``full``, paired over seeds; with one seed, over test rows.

    Over rows the interval is that of these two models on other rows like those. What another seed
    would have given it does not know.
    """

    mean: float = Field(description="over the pairs, in accuracy (0.01 is one point)")
    low: float = Field(description="lower end of the 95 % interval (Student's t)")
    high: float = Field(description="upper end")
    num_seeds: int = Field(description="pairs of runs; 1: the interval is over test rows")
    within_noise: bool = Field(description="the interval holds 0: no difference was shown")


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
        description="test (else validation) accuracy against full's",
    )


def compare_report(runs: list[RunReport]) -> CompareReport:
    """Put runs side by side; ratios are taken seed by seed, then their median."""
    speedup, wall, difference = {}, {}, {}
    for mode in dict.fromkeys(run.mode for run in runs):
        pairs = paired_runs(runs, mode, "full")
        if pairs:
            speedup[mode] = statistics.median(f.paid_seconds / r.paid_seconds for r, f in pairs)
            wall[mode] = statistics.median(
                f.totals.wall_seconds / r.totals.wall_seconds for r, f in pairs
            )
        found = _difference(pairs) if pairs and mode != "full" else None
        if found is not None:
            difference[mode] = found
    return CompareReport(
        schema=1, runs=runs, speedup=speedup, wall_speedup=wall, difference=difference
    )


def paired_runs(
    runs: list[RunReport], mode: str, baseline: str
) -> list[tuple[RunReport, RunReport]]:
    """Runs of ``mode``, each with the run of mode ``baseline`` that has the same seed."""
    of_seed = {run.seed: run for run in runs if run.mode == baseline}
    return [(run, of_seed[run.seed]) for run in runs if run.mode == mode and run.seed in of_seed]


def pack_right(right: npt.NDArray[np.bool_]) -> str:
    """[n] as ``test_right`` keeps it: the number of rows, then eight to a byte."""
    return f"{len(right)}:{base64.b64encode(np.packbits(right).tobytes()).decode()}"


def unpack_right(text: str) -> npt.NDArray[np.bool_]:
    """[n], what :func:`pack_right` was given."""
    count, _, packed = text.partition(":")
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8))
    return bits[: int(count)].astype(bool)


def row_difference(run: RunReport, other: RunReport) -> PairedDifference | None:
    """Test accuracy minus that of ``other``, paired over test rows; None: not the same rows."""
    if run.totals.test_right is None or other.totals.test_right is None:
        return None
    mine, theirs = unpack_right(run.totals.test_right), unpack_right(other.totals.test_right)
    if len(mine) != len(theirs):
        return None
    return paired_difference(mine.astype(float).tolist(), theirs.astype(float).tolist())


def _difference(pairs: list[tuple[RunReport, RunReport]]) -> DifferenceReport | None:
    found: PairedDifference | None
    if len(pairs) == 1:
        found = row_difference(*pairs[0])
    else:
        found = paired_difference([r.accuracy for r, _ in pairs], [f.accuracy for _, f in pairs])
    if found is None:
        return None
    return DifferenceReport(
        mean=found.mean,
        low=found.low,
        high=found.high,
        num_seeds=len(pairs),
        within_noise=found.within_noise,
    )
