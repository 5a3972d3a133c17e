"""The guarded rule on cases computed by hand."""

import pytest
import torch

from afcore.freezing.decisions import FreezeState
from afcore.freezing.guarded import coherence, guarded_test
from afcore.gradients import GradientSums, norms_of_gradients
from tests.freezing.intervals import interval
from tests.training_setup import make_split

RULE = {"start": 0.25, "patience": 2, "noise_ratio": 1.1}


@pytest.mark.parametrize(
    ("quiet_before", "coherences", "step", "boundary", "quiet", "after"),
    [
        # Two quiet intervals from the bottom; block 2 has a direction.
        ((1, 1, 0, 0), [1.0, 0.9, 2.0, 1.0], 30, 0, (2, 2, 0, 1), 2),
        # One interval is not enough.
        ((0, 0, 0, 0), [1.0, 1.0, 1.0, 1.0], 30, 0, (1, 1, 1, 1), 0),
        # A block with a direction holds all above it.
        ((1, 1, 1, 1), [1.2, 1.0, 1.0, 1.0], 30, 0, (0, 2, 2, 2), 0),
        # Exactly the limit is noise.
        ((1, 0, 0, 0), [1.1, 2.0, 2.0, 2.0], 30, 0, (2, 0, 0, 0), 1),
        # Too early, but the quiet intervals count.
        ((1, 1, 1, 1), [1.0, 1.0, 1.0, 1.0], 24, 0, (2, 2, 2, 2), 0),
        ((2, 2, 2, 2), [1.0, 1.0, 1.0, 1.0], 25, 0, (3, 3, 3, 3), 3),
        # The last block never freezes, frozen ones stay frozen.
        ((5, 5, 1, 1), [0.0, 0.0, 1.0, 1.0], 50, 2, (6, 6, 2, 2), 3),
        ((5, 5, 1, 1), [0.0, 0.0, 3.0, 1.0], 50, 2, (6, 6, 0, 2), 2),
    ],
)
def test_guarded_by_hand(
    quiet_before: tuple[int, ...],
    coherences: list[float],
    step: int,
    boundary: int,
    quiet: tuple[int, ...],
    after: int,
) -> None:
    state = FreezeState(boundary, quiet=quiet_before)
    new, decision = guarded_test(
        state, interval([1.0] * 4, step=step, coherences=coherences), **RULE
    )
    assert decision is not None
    assert (decision.boundary_before, decision.boundary_after) == (boundary, after)
    assert (decision.eta, decision.threshold) == (tuple(coherences), 1.1)
    assert new == FreezeState(after, quiet=quiet)


def test_the_first_interval_counts() -> None:
    new, _ = guarded_test(FreezeState(), interval([1.0] * 3, coherences=[1.0, 2.0, 1.0]), **RULE)
    assert new.quiet == (1, 0, 1)


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
    found = coherence(sums.finish(step=8, total_steps=80, learning_rate=1.0))
    assert found[0] == pytest.approx(8.0)
    assert found[1:] == pytest.approx([1.0] * (len(found) - 1), abs=0.1)
