"""How much faster is a method than full training that is as accurate? Pure functions.

**What is counted** as the seconds of a training: ``train + materialize + evaluate - test + decide``
of its report's totals. That is every step, frozen blocks, statistics and reading included; building
activation sets; scoring the validation split, by which every row here chooses its best epoch; and
what is done only in order to decide (looks, measurements). Not counted, for any row: imports,
loading the model, tokens (made once for a data set), keeping the best weights or checkpoints, the
one test, and publishing. Hugging Face's Trainer is read by the same clock.

**The curve** is full training at several durations, its schedule compressed to each: points of mean
seconds and mean test accuracy over the seeds. Its *envelope* is the running maximum of accuracy
over growing time, linear in the logarithm of time between points.

**The speed-up** of a method is the time at which the envelope first reaches the method's mean
accuracy, over the method's mean seconds. Above all points it is the time of the best point, and the
ratio a lower bound (full training may never get there); below the first point it is the time of the
first, and the ratio an upper bound (less training may do).

**The interval** is of all resamples of the seeds, jointly for curve and method, as runs with one
seed are a pair. Percentiles of resamples are too narrow for few seeds, so they are taken further
out (Hesterberg 2015, "expanded percentile"): with three seeds they are the extreme resamples. One
seed has no interval.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

__all__ = [
    "CONFIDENCE",
    "Bound",
    "Estimate",
    "Point",
    "Ratio",
    "Seeds",
    "best_point",
    "difference_to_best",
    "envelope",
    "geometric_mean",
    "mean_over_sets",
    "paid_seconds",
    "resampled",
    "speedup",
    "speedup_over_seeds",
    "time_to_reach",
]

CONFIDENCE = 0.9
_MOST_LISTED = 5000
_NUM_DRAWN = 4000


class Bound(StrEnum):
    """What a number is of the truth."""

    EXACT = ""
    AT_LEAST = ">="
    AT_MOST = "<="
    UNKNOWN = "~"  # of several, bounded on different sides


@dataclass(frozen=True)
class Point:
    """A training, or the mean of several: its seconds and test accuracy, from 0 to 1."""

    seconds: float
    accuracy: float


@dataclass(frozen=True)
class Ratio:
    """A speed-up."""

    value: float
    bound: Bound


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over seeds; None with a single seed."""

    value: float
    bound: Bound
    interval: tuple[float, float] | None
    num_seeds: int


@dataclass(frozen=True)
class Seeds:
    """One method beside the curve, by seed.

    Attributes:
        curve: points of each duration, one a seed.
        method: one a seed, in the same order.
    """

    curve: Sequence[Sequence[Point]]
    method: Sequence[Point]

    def __post_init__(self) -> None:
        counts = {len(points) for points in (*self.curve, self.method)}
        if len(counts) != 1 or 0 in counts or not self.curve:
            raise ValueError(f"every duration and the method need the same seeds, got {counts}")

    def averages(self, chosen: Sequence[int] | None = None) -> tuple[list[Point], Point]:
        """Curve and method, averaged over the chosen seeds; a seed may be chosen twice."""
        ids = range(len(self.method)) if chosen is None else chosen
        return [_mean(points, ids) for points in self.curve], _mean(self.method, ids)


def paid_seconds(totals: Mapping[str, Any]) -> float:
    """What is counted, of the ``totals`` of a report."""
    return float(
        totals["train_seconds"]
        + totals["materialize_seconds"]
        + totals["evaluate_seconds"]
        - totals["test_seconds"]
        + totals["decide_seconds"]
    )


def envelope(curve: Sequence[Point]) -> list[Point]:
    """Running maximum of the accuracy over growing time."""
    points = sorted(curve, key=lambda point: (point.seconds, -point.accuracy))
    best = itertools.accumulate((point.accuracy for point in points), max)
    return [Point(point.seconds, high) for point, high in zip(points, best, strict=True)]


def best_point(curve: Sequence[Point]) -> Point:
    """The most accurate, the fastest of these."""
    return min(curve, key=lambda point: (-point.accuracy, point.seconds))


def time_to_reach(accuracy: float, curve: Sequence[Point]) -> tuple[float, Bound]:
    """Seconds after which the envelope first has this accuracy; and what they are a bound of.

    ``AT_LEAST`` means that the curve needs longer, if it gets there at all.
    """
    points = envelope(curve)
    if accuracy < points[0].accuracy:
        return points[0].seconds, Bound.AT_MOST
    for before, after in itertools.pairwise([points[0], *points]):
        if accuracy <= after.accuracy:
            if before.accuracy == after.accuracy:
                return after.seconds, Bound.EXACT
            share = (accuracy - before.accuracy) / (after.accuracy - before.accuracy)
            return before.seconds * (after.seconds / before.seconds) ** share, Bound.EXACT
    return best_point(points).seconds, Bound.AT_LEAST


def speedup(method: Point, curve: Sequence[Point]) -> Ratio:
    """Of one method, by the rule at the top."""
    seconds, bound = time_to_reach(method.accuracy, curve)
    return Ratio(seconds / method.seconds, bound)


def speedup_over_seeds(seeds: Seeds) -> Estimate:
    """Of the averages, with its interval."""

    def of(chosen: Sequence[int] | None = None) -> Ratio:
        curve, method = seeds.averages(chosen)
        return speedup(method, curve)

    found = of()
    interval = resampled(lambda chosen: of(chosen).value, len(seeds.method))
    return Estimate(found.value, found.bound, interval, len(seeds.method))


def difference_to_best(seeds: Seeds) -> Estimate:
    """The method's mean accuracy minus that of the curve's best point, in points.

    The best point is chosen anew in every resample.
    """

    def of(chosen: Sequence[int] | None = None) -> float:
        curve, method = seeds.averages(chosen)
        return 100 * (method.accuracy - best_point(curve).accuracy)

    return Estimate(of(), Bound.EXACT, resampled(of, len(seeds.method)), len(seeds.method))


def resampled(
    statistic: Callable[[Sequence[int]], float], num_seeds: int, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Interval of a statistic of seeds; None for one seed.

    Args:
        statistic: of positions of seeds, one a draw.
        num_seeds: from which as many are drawn, with repetition.
        confidence: of the two-sided interval; each end is one-sided at ``(1 + confidence) / 2``.
    """
    if num_seeds < 2:
        return None
    return _ends([statistic(chosen) for chosen in _draws(num_seeds)], num_seeds, confidence)


def geometric_mean(ratios: Sequence[Ratio | Estimate]) -> Ratio:
    """Of speed-ups, one a data set; a bound where any of them is one."""
    logs = [math.log(ratio.value) for ratio in ratios]
    bounds = {ratio.bound for ratio in ratios} - {Bound.EXACT}
    bound = bounds.pop() if len(bounds) == 1 else Bound.UNKNOWN if bounds else Bound.EXACT
    return Ratio(math.exp(sum(logs) / len(logs)), bound)


def mean_over_sets(
    sets: Sequence[Seeds],
    of_set: Callable[[Seeds, Sequence[int]], float],
    combine: Callable[[Sequence[float]], float],
    confidence: float = CONFIDENCE,
) -> tuple[float, float] | None:
    """Interval of a mean over data sets: the seeds of each are resampled independently.

    A set with one seed stays as it is; None where all have one.

    Args:
        sets: one method's.
        of_set: the number of a set, for chosen seeds.
        combine: the numbers of the sets.
        confidence: two-sided.
    """
    counts = [len(seeds.method) for seeds in sets]
    fewest = min((count for count in counts if count > 1), default=1)
    if fewest == 1:
        return None
    rng = np.random.default_rng(0)
    columns = []
    for seeds, count in zip(sets, counts, strict=True):
        draws = _draws(count)
        values = np.array([of_set(seeds, chosen) for chosen in draws])
        columns.append(values[rng.integers(0, len(values), _NUM_DRAWN)])
    return _ends([combine(row) for row in np.stack(columns, axis=1)], fewest, confidence)


def _mean(points: Sequence[Point], ids: Sequence[int]) -> Point:
    return Point(
        sum(points[i].seconds for i in ids) / len(ids),
        sum(points[i].accuracy for i in ids) / len(ids),
    )


def _draws(num_seeds: int) -> Sequence[Sequence[int]]:
    """All resamples in order, or as many as are enough."""
    if num_seeds**num_seeds <= _MOST_LISTED:
        return list(itertools.product(range(num_seeds), repeat=num_seeds))
    rng = np.random.default_rng(0)
    return rng.integers(0, num_seeds, (_NUM_DRAWN, num_seeds)).tolist()


def _ends(values: Sequence[float], num_seeds: int, confidence: float) -> tuple[float, float]:
    quantile = stdtrit(num_seeds - 1, (1 + confidence) / 2)
    level = float(ndtr(-math.sqrt(num_seeds / (num_seeds - 1)) * quantile))
    low, high = np.quantile(values, [level, 1 - level])
    return float(low), float(high)
