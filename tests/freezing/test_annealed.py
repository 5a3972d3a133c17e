import pytest

from afcore.freezing.annealed import Annealed
from afcore.freezing.policy import FreezeState
from tests.freezing.intervals import interval


@pytest.mark.parametrize(
    ("t_0", "step", "boundary"),
    [
        # 0.5, 2/3, 5/6 cubed: 0.125, 0.296, 0.579 of 100 steps.
        (0.5, 12, 0),
        (0.5, 13, 1),
        (0.5, 29, 1),
        (0.5, 30, 2),
        (0.5, 57, 2),
        (0.5, 58, 3),
        (0.5, 100, 3),  # the last block always trains
        # 0.8, 0.867, 0.933 cubed: 0.512, 0.651, 0.813.
        (0.8, 51, 0),
        (0.8, 52, 1),
        (0.8, 82, 3),
        # Together, at the end.
        (1.0, 99, 0),
        (1.0, 100, 3),
    ],
)
def test_block_after_block(t_0: float, step: int, boundary: int) -> None:
    state, decision = Annealed(t_0=t_0).decide(FreezeState(), interval([1] * 4, step=step))
    assert decision is not None
    assert (state.boundary, decision.boundary_after) == (boundary, boundary)


def test_it_never_unfreezes() -> None:
    state, _ = Annealed().decide(FreezeState(2), interval([1] * 4, step=1))
    assert state.boundary == 2


def test_a_single_block_trains_to_the_end() -> None:
    state, _ = Annealed().decide(FreezeState(), interval([1], step=100))
    assert state.boundary == 0


def test_what_a_plan_knows() -> None:
    # 0, 1/4, 1/2 and 3/4 of the training are done.
    found = Annealed(intervals_per_epoch=2).possible_traces(4, num_epochs=2)
    assert found == {"as scheduled": [[0, 1], [2, 3]]}
