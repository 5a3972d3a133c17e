"""What is added up of the steps of a Trainer."""

import math

import pytest
import torch

from afcore.distributed import ALONE
from afcore.trainer_callback.interval_watch import IntervalWatch
from tests.training_setup import make_split


@pytest.mark.parametrize("is_fp16", [False, True])
def test_a_step_that_is_not_made_is_in_no_sum(is_fp16: bool) -> None:
    split = make_split()
    watch = IntervalWatch(split.model, split, ALONE, adds_up=True)
    watch.begin(4)
    for value in (1.0, math.inf, 0.5, -0.25):
        for parameter in split.model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        watch.add(1e-3, may_be_left_out=is_fp16)
    found = watch.statistics()
    sizes = [sum(p.numel() for p in block.parameters()) for block in split.blocks]
    assert found["num_steps"] == 4
    assert found["second_half_norms"] == pytest.approx([0.25 * size for size in sizes])
    expected = [1.25 * size if is_fp16 else math.inf for size in sizes]
    assert found["gradient_norms"] == pytest.approx(expected)
    assert all(map(math.isfinite, found["sums_of_squares"])) == is_fp16
