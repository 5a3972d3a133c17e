"""The guarded rule on cases computed by hand."""

import math
from dataclasses import replace

import pytest
import torch

from afcore.freezing.decisions import FreezeState
from afcore.freezing.guarded import coherence, guarded_test
from afcore.training.gradients import GradientSums, norms_of_gradients
from tests.freezing.intervals import interval
from tests.training_setup import make_split

RULE = {"patience": 2, "noise_ratio": 1.1}


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
    state = FreezeState(boundary, quiet=quiet_before, best_loss=1.0, steady=1)
    new, decision = guarded_test(state, interval([1.0] * 4, coherences=coherences), **RULE)
    assert decision is not None
    assert (decision.boundary_before, decision.boundary_after) == (boundary, after)
    shown = [math.nan] * boundary + coherences[boundary:]
    assert decision.eta == pytest.approx(shown, nan_ok=True)
    assert decision.threshold == 1.1
    assert new == FreezeState(after, quiet=quiet, best_loss=1.0, steady=2)


@pytest.mark.parametrize(
    ("losses", "steady"),
    [
        ([2.0], 0),
        ([2.0, 1.5, 1.2], 0),  # falling by more than the error of 0.1
        ([2.0, 1.95], 1),  # not by more
        ([2.0, 1.95, 1.88], 2),  # nor below the best so far
        ([2.0, 1.95, 1.8], 0),
        ([2.0, 2.5, 1.9], 2),  # exactly the error is no fall
        ([2.0, 2.5, 1.85], 0),
    ],
)
def test_the_loss_of_epoch_1_is_settled_when_it_stops_falling(
    losses: list[float], steady: int
) -> None:
    state = FreezeState()
    for loss in losses:
        state, _ = guarded_test(state, interval([1.0] * 4, loss=loss), **RULE)
    assert state.steady == steady
    assert state.best_loss == min(losses)
    assert state.boundary == (3 if steady >= 2 else 0)


@pytest.mark.parametrize(
    ("validation_losses", "after"),
    [((1.0,), 0), ((1.0, 0.9), 0), ((1.0, 0.9, 0.95), 3), ((1.0, 1.1, 0.9), 0)],
)
def test_later_it_is_the_validation_loss(validation_losses: tuple[float, ...], after: int) -> None:
    state = FreezeState(quiet=(9,) * 4, best_loss=1.0, steady=1)
    # The training loss of examples that were seen before says nothing.
    given = interval([1.0] * 4, epoch=2, loss=5.0, validation_losses=validation_losses)
    new, _ = guarded_test(state, given, **RULE)
    assert (new.boundary, new.steady) == (after, 1)


@pytest.mark.parametrize(("epoch", "after"), [(3, 3), (4, 0)])
def test_a_worse_validation_loss_counts_only_while_an_epoch_is_left(epoch: int, after: int) -> None:
    state = FreezeState(quiet=(9,) * 4, best_loss=1.0, steady=1)
    given = interval([1.0] * 4, epoch=epoch, loss=5.0, validation_losses=(1.0, 0.9, 0.95))
    new, _ = guarded_test(state, given, **RULE)
    assert new.boundary == after


def test_what_settled_in_epoch_1_stays_settled() -> None:
    state = FreezeState(quiet=(9,) * 4, best_loss=1.0, steady=2)
    improving = interval([1.0] * 4, epoch=3, loss=5.0, validation_losses=(1.0, 0.9))
    new, _ = guarded_test(state, improving, **RULE)
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
    found = coherence(replace(interval([1.0]), **sums.finish()))
    assert found[0] == pytest.approx(8.0)
    assert found[1:] == pytest.approx([1.0] * (len(found) - 1), abs=0.1)
