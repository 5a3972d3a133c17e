"""Is a difference more than noise? Runs with the same seed are pairs. No I/O.

Two runs of a seed share the head they begin with, so what one seed adds to both cancels in their
difference, and fewer seeds tell as much as more that are not paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

__all__ = ["CONFIDENCE", "PairedDifference", "paired_difference"]

CONFIDENCE = 0.95


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


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE
) -> PairedDifference:
    """Student's t interval of the mean difference of pairs: ``mean +- t * s / sqrt(n)``.

    ``s`` is the standard deviation of the differences with ``n - 1`` degrees of freedom, ``t`` the
    quantile of Student's distribution with as many.

    Args:
        values: one a seed, e.g. test accuracies.
        baseline: of the same seeds, in the same order.
        confidence: of the two-sided interval, above 0 and below 1.

    Raises:
        ValueError: without a pair, for lists of different lengths, or a confidence out of range.
    """
    if len(values) != len(baseline) or len(values) == 0:
        raise ValueError(
            f"pairs are needed, at least one; got {len(values)} values and {len(baseline)} of the "
            "baseline"
        )
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    differences = np.asarray(values, dtype=float) - np.asarray(baseline, dtype=float)
    mean, num_pairs = float(differences.mean()), len(differences)
    if num_pairs == 1:
        return PairedDifference(mean, -math.inf, math.inf, 1)
    error = float(differences.std(ddof=1)) / math.sqrt(num_pairs)
    half = float(stdtrit(num_pairs - 1, (1 + confidence) / 2)) * error
    return PairedDifference(mean, mean - half, mean + half, num_pairs)
