import pytest

from afcore.freezing.linear import Linear
from afcore.freezing.policy import FreezeState
from tests.freezing.intervals import interval


@pytest.mark.parametrize(("step", "boundary"), [(0, 0), (33, 0), (34, 1), (67, 2), (100, 3)])
@pytest.mark.parametrize("depth", [3, None])
def test_in_proportion_to_the_steps_done(step: int, boundary: int, depth: int | None) -> None:
    state, decision = Linear(depth=depth).decide(FreezeState(), interval([1] * 4, step=step))
    assert decision is not None
    assert state.boundary == decision.boundary_after == boundary


def test_it_never_unfreezes() -> None:
    state, _ = Linear(depth=3).decide(FreezeState(2), interval([1] * 4, step=1))
    assert state.boundary == 2


def test_it_begins_with_nothing_frozen() -> None:
    assert Linear(depth=3).begin(4) == FreezeState()


def test_a_depth_that_leaves_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="of 4 blocks at most 3 can be frozen"):
        Linear(depth=4).begin(4)


@pytest.mark.parametrize(
    ("depth", "trace"),
    [
        # After 1, 2 and 3 of 4 intervals: floor(3 / 4), floor(6 / 4), floor(9 / 4).
        (None, [[0, 0], [1, 2]]),
        (2, [[0, 0], [1, 1]]),
    ],
)
def test_what_a_plan_knows(depth: int | None, trace: list[list[int]]) -> None:
    policy = Linear(depth=depth, intervals_per_epoch=2)
    assert policy.possible_traces(4, num_epochs=2) == {"as scheduled": trace}
