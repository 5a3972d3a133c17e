"""The yardstick on cases that are worked out by hand."""

import math
from itertools import product

import numpy as np
import pytest

from bench.frontier_parts.yardstick import (
    Bound,
    Estimate,
    Point,
    Ratio,
    Seeds,
    best_point,
    difference_to_best,
    envelope,
    geometric_mean,
    mean_over_sets,
    paid_seconds,
    resampled,
    speedup,
    speedup_over_seeds,
    time_to_reach,
)

# Three durations, each twice as long; and one that falls in the middle.
RISING = [Point(10, 0.80), Point(20, 0.90), Point(40, 0.94)]
FALLING = [Point(10, 0.80), Point(20, 0.70), Point(40, 0.90)]


@pytest.mark.parametrize(
    ("curve", "accuracy", "seconds", "bound"),
    [
        # At points.
        (RISING, 0.80, 10.0, Bound.EXACT),
        (RISING, 0.90, 20.0, Bound.EXACT),
        (RISING, 0.94, 40.0, Bound.EXACT),
        # Between them: half of the accuracy is half of the logarithm.
        (RISING, 0.85, 10 * math.sqrt(2), Bound.EXACT),
        (RISING, 0.93, 20 * 2**0.75, Bound.EXACT),
        # Below and above all.
        (RISING, 0.50, 10.0, Bound.AT_MOST),
        (RISING, 0.95, 40.0, Bound.AT_LEAST),
        # The middle point does not lower what was reached; growth starts from its time.
        (FALLING, 0.75, 10.0, Bound.AT_MOST),
        (FALLING, 0.80, 10.0, Bound.EXACT),
        (FALLING, 0.85, 20 * math.sqrt(2), Bound.EXACT),
        # The best is not the last: longer training is no better, so its time is the best's.
        ([Point(10, 0.80), Point(20, 0.90), Point(40, 0.85)], 0.92, 20.0, Bound.AT_LEAST),
        # Ties: the first of equal accuracies, the better of equal times.
        ([Point(10, 0.80), Point(20, 0.90), Point(40, 0.90)], 0.90, 20.0, Bound.EXACT),
        ([Point(10, 0.80), Point(20, 0.90), Point(40, 0.90)], 0.91, 20.0, Bound.AT_LEAST),
        ([Point(10, 0.80), Point(10, 0.70)], 0.80, 10.0, Bound.EXACT),
        # The order in which points are given says nothing.
        (RISING[::-1], 0.85, 10 * math.sqrt(2), Bound.EXACT),
        # A single point.
        ([Point(10, 0.80)], 0.80, 10.0, Bound.EXACT),
        ([Point(10, 0.80)], 0.79, 10.0, Bound.AT_MOST),
        ([Point(10, 0.80)], 0.81, 10.0, Bound.AT_LEAST),
    ],
)
def test_the_time_at_which_full_training_is_as_accurate(
    curve: list[Point], accuracy: float, seconds: float, bound: Bound
) -> None:
    found, mark = time_to_reach(accuracy, curve)

    assert found == pytest.approx(seconds)
    assert mark is bound


def test_the_envelope_never_falls() -> None:
    assert [point.accuracy for point in envelope(FALLING)] == [0.80, 0.80, 0.90]
    assert [point.seconds for point in envelope(FALLING)] == [10, 20, 40]


def test_the_best_point_is_the_fastest_of_the_most_accurate() -> None:
    assert best_point([Point(40, 0.9), Point(20, 0.9), Point(10, 0.8)]) == Point(20, 0.9)


@pytest.mark.parametrize(
    ("method", "ratio"),
    [
        (Point(5, 0.90), Ratio(4.0, Bound.EXACT)),
        (Point(40, 0.90), Ratio(0.5, Bound.EXACT)),  # training less is twice as fast
        (Point(10, 0.99), Ratio(4.0, Bound.AT_LEAST)),
        (Point(5, 0.10), Ratio(2.0, Bound.AT_MOST)),
    ],
)
def test_the_speed_up_is_that_time_over_the_methods(method: Point, ratio: Ratio) -> None:
    assert speedup(method, RISING) == ratio


def test_the_clock_has_everything_but_the_test() -> None:
    totals = {
        "train_seconds": 100.0,
        "materialize_seconds": 10.0,
        "evaluate_seconds": 5.0,
        "test_seconds": 2.0,
        "decide_seconds": 0.5,
        "checkpoint_seconds": 1000.0,
        "wall_seconds": 2000.0,
    }
    assert paid_seconds(totals) == 113.5


def test_full_training_at_its_best_is_as_fast_as_itself() -> None:
    assert [speedup(point, RISING).value for point in RISING] == pytest.approx([1.0, 1.0, 1.0])


def two_seeds() -> Seeds:
    """The second seed takes twice as long in everything, and is as accurate."""
    curve = [[point, Point(2 * point.seconds, point.accuracy)] for point in RISING]
    return Seeds(curve, [Point(5, 0.90), Point(10, 0.90)])


def test_what_a_seed_does_to_both_cancels() -> None:
    found = speedup_over_seeds(two_seeds())

    assert found.value == pytest.approx(4.0)
    assert found.interval == pytest.approx((4.0, 4.0))
    assert found.num_seeds == 2


def test_the_interval_is_of_all_resamples() -> None:
    # The method's times are 5 and 10, those of the curve the same: resamples give 20 / 5, 20 / 7.5
    # twice, and 20 / 10. Two seeds are so few that the interval has all of them.
    seeds = Seeds([[point, point] for point in RISING], [Point(5, 0.90), Point(10, 0.90)])
    found = speedup_over_seeds(seeds)

    assert found.value == pytest.approx(20 / 7.5)
    assert found.interval == pytest.approx((2.0, 4.0))


def test_one_seed_has_no_interval() -> None:
    seeds = Seeds([[point] for point in RISING], [Point(5, 0.90)])

    assert speedup_over_seeds(seeds) == Estimate(4.0, Bound.EXACT, None, 1)
    assert difference_to_best(seeds).interval is None


@pytest.mark.parametrize(
    ("num_seeds", "share"),
    [
        # Expanded percentiles at 90 %: Phi(-sqrt(n / (n - 1)) t(n - 1, 0.95)), from tables of t:
        # 2.920, 2.132 and 1.833.
        (3, 0.000174),
        (5, 0.00857),
        (10, 0.02667),
    ],
)
def test_few_seeds_make_the_interval_wide(num_seeds: int, share: float) -> None:
    values = np.random.default_rng(1).normal(size=num_seeds)
    interval = resampled(lambda chosen: float(values[list(chosen)].mean()), num_seeds)
    every = (
        [values[list(chosen)].mean() for chosen in product(range(num_seeds), repeat=num_seeds)]
        if num_seeds <= 5
        else values[np.random.default_rng(2).integers(0, 10, (100_000, 10))].mean(axis=1)
    )

    low, high = np.quantile(every, [share, 1 - share])
    tolerance = 0.03 if num_seeds > 5 else 1e-3
    assert interval == pytest.approx((low, high), abs=tolerance)


def test_the_difference_is_to_the_curves_best_point_in_points() -> None:
    found = difference_to_best(two_seeds())

    assert found.value == pytest.approx(-4.0)
    assert found.interval == pytest.approx((-4.0, -4.0))


@pytest.mark.parametrize(
    ("bounds", "bound"),
    [
        ([Bound.EXACT, Bound.EXACT], Bound.EXACT),
        ([Bound.EXACT, Bound.AT_LEAST], Bound.AT_LEAST),
        ([Bound.AT_MOST, Bound.EXACT], Bound.AT_MOST),
        ([Bound.AT_MOST, Bound.AT_LEAST], Bound.UNKNOWN),
    ],
)
def test_the_geometric_mean_keeps_what_is_a_bound(bounds: list[Bound], bound: Bound) -> None:
    found = geometric_mean([Ratio(2.0, bounds[0]), Ratio(0.5, bounds[1])])

    assert found.value == pytest.approx(1.0)
    assert found.bound is bound


def test_over_sets_a_set_with_one_seed_stays_as_it_is() -> None:
    several = Seeds([[point, point] for point in RISING], [Point(5, 0.90), Point(10, 0.90)])
    one = Seeds([[point] for point in RISING], [Point(20, 0.90)])

    def of_set(seeds: Seeds, chosen: object) -> float:
        curve, method = seeds.averages(chosen)
        return speedup(method, curve).value

    def product_of(values: object) -> float:
        return math.prod(values)

    assert mean_over_sets([several, one], of_set, product_of) == pytest.approx((2.0, 4.0))
    assert mean_over_sets([one, one], of_set, product_of) is None


def test_curve_and_method_need_the_same_seeds() -> None:
    with pytest.raises(ValueError, match="the same seeds"):
        Seeds([[Point(1, 0.5), Point(1, 0.5)]], [Point(1, 0.5)])
