import math

import numpy as np
import pytest
from scipy import stats

from afcore.results.paired import paired_difference


def test_three_pairs_by_hand() -> None:
    # Differences -1, -2, -3: mean -2, standard deviation 1, error 1/sqrt(3); t(2, 0.975) = 4.3027.
    difference = paired_difference([89.0, 87.0, 88.0], [90.0, 89.0, 91.0])

    assert difference.mean == pytest.approx(-2.0)
    assert difference.low == pytest.approx(-2.0 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert difference.high == pytest.approx(-2.0 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert difference.num_pairs == 3
    assert difference.within_noise


def test_pairs_show_what_unpaired_means_would_hide() -> None:
    # The seeds differ by 10 points, the modes by 0.5 to 0.6 in each.
    values, baseline = [80.5, 85.6, 90.5, 95.6], [80.0, 85.0, 90.0, 95.0]

    assert not paired_difference(values, baseline).within_noise
    assert paired_difference(values, baseline[::-1]).within_noise


def test_it_is_the_interval_of_a_paired_t_test() -> None:
    values, baseline = np.random.default_rng(0).normal(size=(2, 8))
    low, high = stats.ttest_rel(values, baseline).confidence_interval(0.95)
    difference = paired_difference(values, baseline)

    assert (difference.low, difference.high) == (pytest.approx(low), pytest.approx(high))


def test_one_pair_says_nothing_about_noise() -> None:
    difference = paired_difference([0.9], [0.8])

    assert difference.mean == pytest.approx(0.1)
    assert (difference.low, difference.high) == (-math.inf, math.inf)
    assert difference.within_noise


def test_equal_runs_differ_by_exactly_nothing() -> None:
    difference = paired_difference([0.9, 0.8], [0.9, 0.8])

    assert (difference.low, difference.mean, difference.high) == (0.0, 0.0, 0.0)
    assert difference.within_noise


@pytest.mark.parametrize(("values", "baseline"), [([], []), ([1.0], [1.0, 2.0])])
def test_without_pairs_it_is_refused(values: list[float], baseline: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs are needed"):
        paired_difference(values, baseline)
