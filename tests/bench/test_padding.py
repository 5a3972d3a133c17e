"""What is counted of padding, against counts by hand."""

import numpy as np
import pytest

from bench.padding import WIDTH, batches, padded, work


def test_padding_and_what_packing_saves() -> None:
    found = [np.array([1, 3]), np.array([2, 2])]
    assert padded(found) == 1 - 8 / 10
    linear, attention = 24 * WIDTH**2, 4 * WIDTH
    now = 6 * (linear + 3 * attention) + 4 * (linear + 2 * attention)
    apart = 8 * linear + (1 + 9 + 4 + 4) * attention
    masked = 8 * linear + (4 * 4 + 4 * 4) * attention
    assert work(found) == pytest.approx((apart / now, masked / now))


def test_choices_stay_together() -> None:
    lengths = np.array([1, 9, 2, 8, 3, 7, 4, 6])
    found = batches(lengths, 2, 2, "grouped")
    assert sorted(one.tolist() for one in found) == [[2, 8, 1, 9], [4, 6, 3, 7]]
