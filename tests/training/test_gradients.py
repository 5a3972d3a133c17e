import pytest
import torch

from afcore.freezing.policy import PER_BLOCK
from afcore.training.gradients import GradientSums, clip_gradients, norms_of_gradients
from tests.training_setup import NUM_BLOCKS, make_split


def _fill(split: object, value: float, boundary: int = 0) -> None:
    split.set_training(boundary)
    for parameter in split.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, value)


def _add(sums: GradientSums, split: object, value: float, boundary: int = 0) -> None:
    _fill(split, value, boundary)
    sums.add(norms_of_gradients(list(split.model.parameters())))


def test_gradients_are_summed_with_their_signs_then_normed() -> None:
    split = make_split()
    sums = GradientSums(split, 3)
    sizes = [sum(p.numel() for p in block.parameters()) for block in split.blocks]
    for value in (1.0, -0.5, 0.25):
        _add(sums, split, value)
    found = sums.finish()
    assert sums.num_steps == 3
    assert found["gradient_norms"] == pytest.approx([0.75 * size for size in sizes])
    assert found["first_half_norms"] == pytest.approx([1.0 * size for size in sizes])
    assert found["second_half_norms"] == pytest.approx([0.25 * size for size in sizes])
    assert found["squared_sums"] == pytest.approx([0.75**2 * size for size in sizes])
    assert found["sums_of_squares"] == pytest.approx([1.3125 * size for size in sizes])


def test_an_interval_begins_with_nothing() -> None:
    split = make_split()
    sums = GradientSums(split, 1)
    _add(sums, split, 1.0)
    sums.begin(4)
    found = sums.finish()
    assert sums.num_steps == 0
    assert found == {name: (0.0,) * NUM_BLOCKS for name in PER_BLOCK}


def test_an_interval_of_one_step_has_an_empty_first_half() -> None:
    split = make_split()
    sums = GradientSums(split, 1)
    _add(sums, split, 1.0)
    found = sums.finish()
    assert found["first_half_norms"] == (0.0,) * NUM_BLOCKS
    assert found["second_half_norms"] == found["gradient_norms"]


def test_nothing_is_added_up_once_only_the_last_block_trains() -> None:
    split = make_split()
    sums = GradientSums(split, 2)
    _add(sums, split, 1.0, boundary=NUM_BLOCKS - 1)
    assert sums.num_steps == 1
    assert sums.tensors() == {}
    assert sums.finish() == {name: (0.0,) * NUM_BLOCKS for name in PER_BLOCK}


def test_frozen_blocks_count_nothing() -> None:
    split = make_split()
    sums = GradientSums(split, 1)
    _add(sums, split, 1.0, boundary=2)
    norms = sums.finish()["gradient_norms"]
    assert norms[:2] == (0, 0)
    assert all(norm > 0 for norm in norms[2:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_half_precision_are_added_up_in_full(dtype: torch.dtype) -> None:
    """In bf16, 256 and 1 are 256."""
    split = make_split()
    split.model.to(dtype)
    sums = GradientSums(split, 600)
    for _ in range(600):
        _add(sums, split, 2**-13)
    found = sums.finish()
    sizes = [sum(p.numel() for p in block.parameters()) for block in split.blocks]
    assert found["gradient_norms"] == pytest.approx([600 * 2**-13 * n for n in sizes])
    assert found["first_half_norms"] == pytest.approx([300 * 2**-13 * n for n in sizes])
    assert found["squared_sums"] == pytest.approx([(600 * 2**-13) ** 2 * n for n in sizes])
    assert found["sums_of_squares"] == pytest.approx([600 * 2**-26 * n for n in sizes], rel=1e-2)


def test_adding_changes_no_gradient() -> None:
    split = make_split()
    sums = GradientSums(split, 4)
    _fill(split, 1.0)
    norms = norms_of_gradients(list(split.model.parameters()))
    sums.add(norms)
    sums.add(norms)
    sums.add(norms)
    assert all(bool((p.grad == 1).all()) for p in split.blocks[0].parameters())


@pytest.mark.parametrize("max_norm", [1.0, 1e6])
def test_clipping_is_that_of_torch(max_norm: float) -> None:
    split, peer = make_split(), make_split()
    for model in (split, peer):
        _fill(model, 0.3)
    parameters = list(split.model.parameters())
    clip_gradients(norms_of_gradients(parameters), max_norm)
    torch.nn.utils.clip_grad_norm_(list(peer.model.parameters()), max_norm)
    for mine, theirs in zip(parameters, peer.model.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)
