"""Is a difference more than noise? Runs with the same seed are pairs. No I/O.

Two runs of a seed share the head they begin with, so what one seed adds to both cancels in their
difference, and fewer seeds tell as much as more that are not paired. The same test rows are pairs
too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from afcore.tasks.scores import RowValues

__all__ = ["CONFIDENCE", "PairedDifference", "bootstrap_difference", "paired_difference"]

CONFIDENCE = 0.95
_RESAMPLES = 999


@dataclass(frozen=True)
class PairedDifference:
    """Mean of (value - baseline), and its confidence interval, in the unit of the values.

    Attributes:
        mean: over the pairs.
        low: lower end of the interval; ``-inf`` for a single pair, which says nothing about noise.
        high: upper end; ``inf`` for a single pair.
        num_pairs: at least 1.
    """

    mean: float
    low: float
    high: float
    num_pairs: int

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0: a difference was not shown. It may still exist."""
        return self.low <= 0.0 <= self.high


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> PairedDifference:
    """Student's t interval of the mean difference of pairs: ``mean +- t * s / sqrt(n)``.

    ``s`` is the standard deviation of the differences with ``n - 1`` degrees of freedom, ``t`` the
    quantile of Student's distribution with as many.

    Args:
        values: one a seed, e.g. test accuracies.
        baseline: of the same seeds, in the same order.

    Raises:
        ValueError: without a pair, or for lists of different lengths.
    """
    if len(values) != len(baseline) or len(values) == 0:
        raise ValueError(
            f"pairs are needed, at least one; got {len(values)} values and {len(baseline)} of the "
            "baseline"
        )
    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    mean, num_pairs = float(differences.mean()), len(differences)
    if num_pairs == 1:
        return PairedDifference(mean, -math.inf, math.inf, 1)
    error = float(differences.std(ddof=1)) / math.sqrt(num_pairs)
    half = float(stdtrit(num_pairs - 1, (1 + CONFIDENCE) / 2)) * error
    return PairedDifference(mean, mean - half, mean + half, num_pairs)


def bootstrap_difference(
    score: Callable[[RowValues], float],
    values: RowValues,
    baseline: RowValues,
) -> PairedDifference:
    """Percentile bootstrap of a score that is no mean over rows; both are scored on the same rows.

    The samples are always the same ones, so the same answers give the same interval.

    Args:
        score: of values of rows.
        values: by name, [n, ...].
        baseline: the same rows', of the baseline.
    """

    def difference(rows: npt.NDArray[np.int64]) -> float:
        mine, theirs = (
            {name: of_rows[rows] for name, of_rows in each.items()} for each in (values, baseline)
        )
        return score(mine) - score(theirs)

    rows = np.arange(len(next(iter(values.values()))))
    mean = difference(rows)
    if len(rows) == 1:
        return PairedDifference(mean, -math.inf, math.inf, 1)
    from scipy.stats import bootstrap  # takes a second, and is needed here alone

    found = bootstrap(
        (rows,),
        difference,
        vectorized=False,
        n_resamples=_RESAMPLES,
        batch=1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return PairedDifference(mean, float(found.low), float(found.high), len(rows))
