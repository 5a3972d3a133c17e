import pytest
import torch

from afcore.gradients import GradientSums
from tests.training_setup import NUM_BLOCKS, make_split


def _fill(split: object, value: float, boundary: int = 0) -> None:
    split.set_training(boundary)
    for parameter in split.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)


def test_gradients_are_summed_with_their_signs_then_normed() -> None:
    split = make_split()
    sums = GradientSums(split)
    sizes = [sum(p.numel() for p in block.parameters()) for block in split.blocks]
    for value in (1.0, -0.5, 0.25):
        _fill(split, value)
        sums.add()
    assert sums.num_steps == 3
    assert sums.norms() == pytest.approx([0.75 * size for size in sizes])
    sums.reset()
    assert (sums.num_steps, sums.norms()) == (0, (0,) * NUM_BLOCKS)


def test_frozen_blocks_count_nothing() -> None:
    split = make_split()
    sums = GradientSums(split)
    _fill(split, 1.0, boundary=2)
    sums.add()
    norms = sums.norms()
    assert norms[:2] == (0, 0)
    assert all(norm > 0 for norm in norms[2:])


def test_adding_changes_no_gradient() -> None:
    split = make_split()
    sums = GradientSums(split)
    _fill(split, 1.0)
    sums.add()
    sums.add()
    assert all(bool((p.grad == 1).all()) for p in split.blocks[0].parameters())
