"""Runs side by side: ratios of time, the best mode, and differences with their noise. No I/O."""

import statistics
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.results.paired import PairedDifference, bootstrap_difference, paired_difference
from afcore.results.report import (
    CompareReport,
    DifferenceReport,
    RunReport,
    unpack_array,
    unpack_right,
)
from afcore.tasks.main_score import MAIN_SCORES
from afcore.tasks.text_classification import class_score

__all__ = ["ROW_SCORES", "compare_report", "paired_runs", "row_difference"]

ROW_SCORES = ("f1_macro", "matthews")
"""Scores of all rows together, which are no mean over them."""


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
        schema=1,
        runs=runs,
        speedup=speedup,
        wall_speedup=wall,
        difference=difference,
        score=runs[0].score,
        best_mode=_best_mode(runs),
    )


def _best_mode(runs: list[RunReport]) -> str | None:
    """By the mean of the main score over seeds; among equals the one that took least time."""
    modes = list(dict.fromkeys(run.mode for run in runs))
    if len(modes) < 2:
        return None
    main = MAIN_SCORES[runs[0].score]

    def rank(mode: str) -> tuple[float, float]:
        of_mode = [run for run in runs if run.mode == mode]
        quality = [main.quality({run.score: run.main_score}) for run in of_mode]
        return statistics.mean(quality), -statistics.mean(run.paid_seconds for run in of_mode)

    return max(modes, key=rank)


def paired_runs(
    runs: list[RunReport], mode: str, baseline: str
) -> list[tuple[RunReport, RunReport]]:
    """Runs of ``mode``, each with the run of mode ``baseline`` that has the same seed."""
    of_seed = {run.seed: run for run in runs if run.mode == baseline}
    return [(run, of_seed[run.seed]) for run in runs if run.mode == mode and run.seed in of_seed]


def row_difference(run: RunReport, other: RunReport) -> PairedDifference | None:
    """Test score minus that of ``other``, paired over test rows; None: not the same rows.

    Accuracy and log loss are means over rows: Student's t interval of the rows' differences.
    Macro-F1 and Matthews correlation are not: rows are drawn again and again (bootstrap).
    """
    if run.score != other.score:
        return None
    if run.score == "accuracy":
        return _mean_difference(*(_right(each) for each in (run, other)))
    if run.score == "loss":
        return _mean_difference(*(_rows(each, "losses") for each in (run, other)))
    labels, mine, theirs = _rows(run, "labels"), _rows(run, "predicted"), _rows(other, "predicted")
    others = _rows(other, "labels")
    if labels is None or others is None or not np.array_equal(labels, others):
        return None
    assert mine is not None
    assert theirs is not None
    num_classes = int(max(labels.max(), mine.max(), theirs.max(), 1)) + 1
    score = partial(class_score, run.score, num_classes=num_classes)
    return bootstrap_difference(score, labels, mine, theirs)


def _mean_difference(
    mine: npt.NDArray[Any] | None, theirs: npt.NDArray[Any] | None
) -> PairedDifference | None:
    if mine is None or theirs is None or len(mine) != len(theirs):
        return None
    return paired_difference(mine.astype(float).tolist(), theirs.astype(float).tolist())


def _right(run: RunReport) -> npt.NDArray[Any] | None:
    return None if run.totals.test_right is None else unpack_right(run.totals.test_right)


def _rows(run: RunReport, name: str) -> npt.NDArray[Any] | None:
    packed: str | None = getattr(run.totals.test_rows, name, None)
    if packed is None:
        return None
    values = unpack_array(packed)
    return values if name == "losses" else values.astype(np.int64)


def _difference(pairs: list[tuple[RunReport, RunReport]]) -> DifferenceReport | None:
    found: PairedDifference | None
    over_rows = len(pairs) == 1
    if over_rows:
        found = row_difference(*pairs[0])
    else:
        found = paired_difference(
            [run.main_score for run, _ in pairs], [full.main_score for _, full in pairs]
        )
    if found is None:
        return None
    return DifferenceReport(
        mean=found.mean,
        low=found.low,
        high=found.high,
        num_seeds=len(pairs),
        within_noise=found.within_noise,
        method="bootstrap" if over_rows and pairs[0][0].score in ROW_SCORES else "t",
    )
