"""Runs side by side: ratios of time, the best mode, and differences with their noise. No I/O."""

import statistics

import numpy as np

from afcore.results.paired import PairedDifference, bootstrap_difference, paired_difference
from afcore.results.report import (
    CompareReport,
    DifferenceReport,
    RunReport,
    unpack_array,
)
from afcore.tasks.scores import RowValues, Score

__all__ = [
    "compare_report",
    "difference_of_rows",
    "paired_runs",
    "row_difference",
    "rows_of_test",
]


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
    main = runs[0].main

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

    Of a score that is a mean over rows, Student's t interval of the rows' differences. Of another
    one, rows are drawn again and again (bootstrap).
    """
    if (run.task, run.score) != (other.task, other.score):
        return None
    mine, theirs = rows_of_test(run), rows_of_test(other)
    if mine is None or theirs is None:
        return None
    return difference_of_rows(run.main, mine, theirs)


def difference_of_rows(score: Score, mine: RowValues, theirs: RowValues) -> PairedDifference | None:
    """:func:`row_difference` of what two models answered; None: not on the same rows."""
    if any(len(mine[name]) != len(theirs[name]) for name in score.rows):
        return None
    targets = "labels" if "labels" in score.rows else None
    if targets is not None and not np.array_equal(mine[targets], theirs[targets]):
        return None
    if score.is_mean:
        (name,) = score.rows
        return paired_difference(*(each[name].astype(float).tolist() for each in (mine, theirs)))
    return bootstrap_difference(score.compute, mine, theirs)


def rows_of_test(run: RunReport) -> RowValues | None:
    """What the main score is computed from, by test row; None where it was not kept."""
    packed = run.totals.test_rows
    if packed is None or set(packed) != set(run.main.rows):
        return None
    values = {name: unpack_array(text) for name, text in packed.items()}
    # Small types save room alone.
    return {n: v.astype(np.int64) if v.dtype.kind in "iu" else v for n, v in values.items()}


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
        method="bootstrap" if over_rows and not pairs[0][0].main.is_mean else "t",
    )
