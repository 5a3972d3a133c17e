"""What the finished pieces say: every row beside the curve of its data set, and over all sets."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from afcore.results.paired import PairedDifference, paired_difference
from bench.frontier_parts.pieces import Finished
from bench.frontier_parts.rows import CONFIGURED_EPOCHS, FULL_ROWS, LONG_ROW, ROWS, TRAINER_ROWS
from bench.frontier_parts.yardstick import (
    Estimate,
    Point,
    Ratio,
    Seeds,
    best_point,
    difference_to_best,
    geometric_mean,
    mean_over_sets,
    speedup,
    speedup_over_seeds,
)

__all__ = ["BASELINES", "Against", "OverSets", "SetRow", "SetSummary", "over_sets", "summarize"]

CONFIGURED = f"full-{CONFIGURED_EPOCHS}"
BASELINES = (CONFIGURED, *(row.name for row in TRAINER_ROWS))
"""Rows that every other one is also put beside, one to one."""


@dataclass(frozen=True)
class Against:
    """A row beside another, over the seeds that both have.

    Attributes:
        ratio: the other's mean seconds over the row's.
        accuracy: the row's mean.
        other_accuracy: the other's.
        difference: of the accuracies, paired by seed.
    """

    ratio: float
    accuracy: float
    other_accuracy: float
    difference: PairedDifference


@dataclass(frozen=True)
class SetRow:
    """A row on a data set, averaged over seeds.

    Attributes:
        name: the row's.
        label: of the row, in pictures.
        group: of the row.
        mean: seconds as measured, and test accuracy.
        accuracy_error: standard error of the latter; 0 with one seed.
        scaled_seconds: had the reference always taken its median.
        loss: on test data.
        rate: learning rate.
        seeds: beside the curve.
        scaled: the same with scaled seconds.
        speedup: by the yardstick, of seconds as measured.
        scaled_speedup: of scaled ones.
        to_best: accuracy minus that of the curve's best point, in points.
        against: by row of :data:`BASELINES`.
        num_disturbed: trainings that stayed disturbed.
    """

    name: str
    label: str
    group: str
    mean: Point
    accuracy_error: float
    scaled_seconds: float
    loss: float
    rate: float
    seeds: Seeds
    scaled: Seeds
    speedup: Estimate
    scaled_speedup: Estimate
    to_best: Estimate
    against: Mapping[str, Against]
    num_disturbed: int


@dataclass(frozen=True)
class SetSummary:
    """A data set.

    Attributes:
        name: its.
        curve: mean points by duration in epochs.
        rows: full training as configured, and every row beside the curve.
    """

    name: str
    curve: Mapping[str, Point]
    rows: Sequence[SetRow]


@dataclass(frozen=True)
class OverSets:
    """A row on all data sets that have it."""

    name: str
    num_sets: int
    speedup: Ratio
    interval: tuple[float, float] | None
    scaled_speedup: Ratio
    worst: tuple[str, Estimate]
    to_best: float
    to_best_interval: tuple[float, float] | None
    worst_to_best: tuple[str, float]


_BySeed = Mapping[int, Finished]


def summarize(finished: Sequence[Finished]) -> list[SetSummary]:
    """By data set; one whose curve has no seed that is complete is left out."""
    trainings = [one for one in finished if not one.piece.row_name.startswith("rate-")]
    references = [seconds for one in finished for seconds in one.references]
    if not trainings:
        return []
    usual = statistics.median(references)
    found = []
    for name in dict.fromkeys(one.piece.set_name for one in trainings):
        by_row: dict[str, dict[int, Finished]] = {}
        for one in trainings:
            if one.piece.set_name == name:
                by_row.setdefault(one.piece.row_name, {})[one.piece.seed] = one
        summary = _summarize_set(name, by_row, usual)
        if summary is not None:
            found.append(summary)
    return found


def over_sets(sets: Sequence[SetSummary]) -> list[OverSets]:
    """Geometric mean, worst set and mean difference of every row."""
    found = []
    for name in (row.name for row in ROWS):
        pairs = [(s.name, row) for s in sets for row in s.rows if row.name == name]
        if pairs:
            found.append(_over_sets(name, pairs))
    return found


def _summarize_set(name: str, by_row: Mapping[str, _BySeed], usual: float) -> SetSummary | None:
    durations = [row for row in (*FULL_ROWS, LONG_ROW) if row.name in by_row]
    if not durations:
        return None
    complete = set.intersection(*(set(by_row[row.name]) for row in durations))
    if not complete:
        return None
    curve = [by_row[row.name] for row in durations]
    rows = []
    for row in ROWS:
        seeds = sorted(complete & set(by_row.get(row.name, {})))
        if (row.group == "full" and row.name != CONFIGURED) or not seeds:
            continue
        of_row = by_row[row.name]
        others = {other: by_row[other] for other in BASELINES if other in by_row}
        others.pop(row.name, None)
        rows.append(_set_row(row.name, row.label, row.group, of_row, curve, others, seeds, usual))
    means = [_mean_point(points, sorted(complete)) for points in curve]
    by_label = {row.label: point for row, point in zip(durations, means, strict=True)}
    return SetSummary(name, by_label, rows)


def _set_row(
    name: str,
    label: str,
    group: str,
    of_row: _BySeed,
    curve: Sequence[_BySeed],
    others: Mapping[str, _BySeed],
    seeds: Sequence[int],
    usual: float,
) -> SetRow:
    measured = Seeds([_points(by, seeds) for by in curve], _points(of_row, seeds))
    scaled = Seeds([_points(by, seeds, usual) for by in curve], _points(of_row, seeds, usual))
    accuracies = [point.accuracy for point in measured.method]
    error = statistics.stdev(accuracies) / math.sqrt(len(seeds)) if len(seeds) > 1 else 0.0
    used = [of_row[seed] for seed in seeds]
    return SetRow(
        name=name,
        label=label,
        group=group,
        mean=measured.averages()[1],
        accuracy_error=error,
        scaled_seconds=scaled.averages()[1].seconds,
        loss=statistics.mean(one.measured["test"]["loss"] for one in used),
        rate=used[0].settings["training.learning_rate"],
        seeds=measured,
        scaled=scaled,
        speedup=speedup_over_seeds(measured),
        scaled_speedup=speedup_over_seeds(scaled),
        to_best=difference_to_best(measured),
        against={
            other: against
            for other, by_seed in others.items()
            if (against := _against(of_row, by_seed, seeds)) is not None
        },
        num_disturbed=sum(one.disturbed for one in used),
    )


def _against(of_row: _BySeed, other: _BySeed, seeds: Sequence[int]) -> Against | None:
    common = [seed for seed in seeds if seed in other]
    if not common:
        return None
    ours, theirs = _points(of_row, common), _points(other, common)
    mine, its = _mean_point(of_row, common), _mean_point(other, common)
    return Against(
        its.seconds / mine.seconds,
        mine.accuracy,
        its.accuracy,
        paired_difference([p.accuracy for p in ours], [p.accuracy for p in theirs]),
    )


def _over_sets(name: str, pairs: Sequence[tuple[str, SetRow]]) -> OverSets:
    rows = [row for _, row in pairs]
    seeds = [row.seeds for row in rows]
    slowest = min(pairs, key=lambda pair: pair[1].speedup.value)
    weakest = min(pairs, key=lambda pair: pair[1].to_best.value)
    return OverSets(
        name=name,
        num_sets=len(rows),
        speedup=geometric_mean([row.speedup for row in rows]),
        interval=mean_over_sets(seeds, _speedup_of, statistics.geometric_mean),
        scaled_speedup=geometric_mean([row.scaled_speedup for row in rows]),
        worst=(slowest[0], slowest[1].speedup),
        to_best=statistics.mean(row.to_best.value for row in rows),
        to_best_interval=mean_over_sets(seeds, _to_best_of, statistics.mean),
        worst_to_best=(weakest[0], weakest[1].to_best.value),
    )


def _speedup_of(seeds: Seeds, chosen: Sequence[int]) -> float:
    curve, method = seeds.averages(chosen)
    return speedup(method, curve).value


def _to_best_of(seeds: Seeds, chosen: Sequence[int]) -> float:
    curve, method = seeds.averages(chosen)
    return 100 * (method.accuracy - best_point(curve).accuracy)


def _points(by_seed: _BySeed, seeds: Sequence[int], usual: float | None = None) -> list[Point]:
    """One a seed; with a usual time of the reference, seconds are scaled by it."""
    found = []
    for seed in seeds:
        one = by_seed[seed]
        scale = 1.0 if usual is None else usual / statistics.mean(one.references)
        seconds = scale * one.measured["paid_seconds"]
        found.append(Point(seconds, one.measured["test"]["accuracy"]))
    return found


def _mean_point(by_seed: _BySeed, seeds: Sequence[int]) -> Point:
    points = _points(by_seed, seeds)
    return Point(
        statistics.mean(point.seconds for point in points),
        statistics.mean(point.accuracy for point in points),
    )
