"""The guarded rule on cases computed by hand."""

import math

import pytest
import torch

from afcore.freezing.guarded import Guarded, coherence
from afcore.freezing.policy import FreezeState
from afcore.training.gradients import GradientSums, norms_of_gradients
from tests.freezing.intervals import interval
from tests.training_setup import make_split

RULE = Guarded(patience=2, noise_ratio=1.1)


@pytest.mark.parametrize(
    ("quiet_before", "coherences", "boundary", "quiet", "after"),
    [
        # Two quiet intervals from the bottom; block 2 has a direction.
        ((1, 1, 0, 0), [1.0, 0.9, 2.0, 1.0], 0, (2, 2, 0, 1), 2),
        # One interval is not enough.
        ((0, 0, 0, 0), [1.0, 1.0, 1.0, 1.0], 0, (1, 1, 1, 1), 0),
        # A block with a direction holds all above it.
        ((1, 1, 1, 1), [1.2, 1.0, 1.0, 1.0], 0, (0, 2, 2, 2), 0),
        # Exactly the limit is noise.
        ((1, 0, 0, 0), [1.1, 2.0, 2.0, 2.0], 0, (2, 0, 0, 0), 1),
        # The last block never freezes, frozen ones stay frozen.
        ((5, 5, 1, 1), [0.0, 0.0, 1.0, 1.0], 2, (6, 6, 2, 2), 3),
        ((5, 5, 1, 1), [0.0, 0.0, 3.0, 1.0], 2, (6, 6, 0, 2), 2),
    ],
)
def test_quiet_blocks_freeze_from_the_bottom(
    quiet_before: tuple[int, ...],
    coherences: list[float],
    boundary: int,
    quiet: tuple[int, ...],
    after: int,
) -> None:
    state = FreezeState(boundary, memory={"quiet": list(quiet_before), "settled": True})
    given = interval([1.0] * 4, coherences=coherences, epoch=2)
    new, decision = RULE.decide(state, given)
    assert decision is not None
    assert (decision.boundary_before, decision.boundary_after) == (boundary, after)
    shown = [math.nan] * boundary + coherences[boundary:]
    assert decision.eta == pytest.approx(shown, nan_ok=True)
    assert decision.threshold == 1.1
    assert new == FreezeState(after, memory={"quiet": list(quiet), "losses": [], "settled": True})


def after_epoch_1(losses: list[float], validation_loss: float) -> FreezeState:
    """Every block is quiet; each loss has a standard error of 0.1, the mean of two 0.0707."""
    state = FreezeState()
    for number, loss in enumerate(losses, start=1):
        known = (validation_loss,) if number == len(losses) else ()
        given = interval([1.0] * 4, loss=loss, validation_losses=known)
        state, _ = RULE.decide(state, given)
    return state


@pytest.mark.parametrize(
    ("losses", "validation_loss", "settled"),
    [
        ([2.0, 1.0, 1.0, 1.0, 1.0], 1.0, True),
        ([2.0, 1.0, 1.0, 1.0, 1.0], 0.99, False),  # validation is still getting better
        ([2.0, 1.1, 1.1, 1.0, 1.0], 1.2, True),  # falling by 0.1, one standard error
        ([2.0, 1.2, 1.1, 1.0, 0.96], 1.2, False),  # by 0.17, significant from 0.1645 on
        ([2.0, 1.2, 1.1, 1.0, 0.98], 1.2, True),  # by 0.16
        ([1.0, 1.0, 1.2, 1.2], 1.2, True),  # rising
        ([1.0, 1.0, 1.0], 1.2, False),  # too few to tell
    ],
)
def test_at_the_end_of_epoch_1_it_takes_two_signs(
    losses: list[float], validation_loss: float, settled: bool
) -> None:
    state = after_epoch_1(losses, validation_loss)
    assert state.memory["losses"] == [[loss, 0.1] for loss in losses]
    assert (state.memory["settled"], state.boundary) == (settled, 3 if settled else 0)


def test_nothing_settles_before_the_epoch_ends() -> None:
    state = FreezeState()
    for _ in range(9):
        state, _ = RULE.decide(state, interval([1.0] * 4))
    assert (state.memory["settled"], state.boundary) == (False, 0)


@pytest.mark.parametrize(
    ("epoch", "validation_losses", "settled"),
    [
        (2, (1.0,), False),  # the epoch is not over
        (2, (1.0, 0.9), False),
        (2, (1.0, 1.0), True),
        (2, (1.0, 1.1), True),
        (3, (1.0, 0.9, 1.1), False),  # one epoch is left, of four
        (4, (1.0, 0.9, 0.8, 0.9), False),
    ],
)
def test_later_it_is_the_validation_loss(
    epoch: int, validation_losses: tuple[float, ...], settled: bool
) -> None:
    # The training loss of examples that were seen before says nothing.
    state = FreezeState(memory={"quiet": [9] * 4, "losses": [[1.0, 0.1]]})
    given = interval([1.0] * 4, epoch=epoch, loss=5.0, validation_losses=validation_losses)
    new, _ = RULE.decide(state, given)
    assert (new.memory["settled"], new.boundary) == (settled, 3 if settled else 0)
    assert new.memory["losses"] == [[1.0, 0.1]]


def test_what_settled_stays_settled() -> None:
    state = FreezeState(memory={"quiet": [9] * 4, "settled": True})
    improving = interval([1.0] * 4, epoch=3, loss=5.0, validation_losses=(1.0, 0.9))
    new, _ = RULE.decide(state, improving)
    assert new.boundary == 3


def test_equal_gradients_agree_and_random_ones_do_not() -> None:
    split = make_split()
    sums = GradientSums(split, 8)
    parameters = list(split.model.parameters())
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        for block, module in enumerate(split.blocks):
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.grad = noise if block else torch.ones_like(parameter)
        sums.add(norms_of_gradients(parameters))
    found = coherence(interval([1.0]).model_copy(update=sums.finish()))
    assert found[0] == pytest.approx(8.0)
    assert found[1:] == pytest.approx([1.0] * (len(found) - 1), abs=0.1)


@pytest.mark.parametrize(
    ("epochs", "intervals", "first"),
    [
        (3, 4, 1),
        (3, 3, None),  # too few intervals to see in epoch 1 that the loss is flat
        (4, 3, 2),
        (2, 4, None),  # what freezes, freezes for two epochs at least
    ],
)
def test_what_a_plan_knows(epochs: int, intervals: int, first: int | None) -> None:
    found = Guarded(patience=2, intervals_per_epoch=intervals).possible_traces(4, epochs)
    frozen_from = epochs if first is None else first
    expected = [[0] * intervals] * frozen_from + [[3] * intervals] * (epochs - frozen_from)
    assert found["nothing freezes"] == [[0] * intervals] * epochs
    assert found["all freezes at once"] == expected
