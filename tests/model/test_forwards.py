import math

import pytest
import torch

from afcore.model.forwards import relative_difference


@pytest.mark.parametrize(
    ("one", "other", "least", "expected"),
    [
        ([1.0, 2.0], [1.0, 4.0], 0.0, 0.5),
        ([0.0, 0.2], [0.0, 0.1], 1.0, 0.1),
        ([-math.inf, 3.0], [-math.inf, 2.0], 1.0, 0.5),
        ([-math.inf, 3.0], [0.0, 3.0], 1.0, math.inf),
        ([math.nan], [1.0], 1.0, math.inf),
        ([1.0], [1.0, 1.0], 1.0, math.inf),
        ([], [], 1.0, 0.0),
    ],
)
def test_differences_are_relative(
    one: list[float], other: list[float], least: float, expected: float
) -> None:
    found = relative_difference(torch.tensor(one), torch.tensor(other), least)
    assert found == pytest.approx(expected)
