import pytest

from afcore.freezing.policy import FreezeState
from afcore.freezing.static import Static
from tests.freezing.intervals import interval


@pytest.mark.parametrize(("depth", "boundary"), [(None, 3), (5, 5), (0, 0)])
def test_where_it_begins_it_stays(depth: int | None, boundary: int) -> None:
    policy = Static(depth=depth)
    state = policy.begin(6)
    assert state == FreezeState(boundary)
    assert policy.decide(state, interval([1] * 6)) == (state, None)


def test_a_depth_that_leaves_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="of 6 blocks at most 5 can be frozen"):
        Static(depth=6).begin(6)


def test_it_needs_no_statistics() -> None:
    assert not Static().keeps_statistics


@pytest.mark.parametrize(("depth", "boundary"), [(None, 2), (0, 0)])
def test_what_a_plan_knows(depth: int | None, boundary: int) -> None:
    found = Static(depth=depth, intervals_per_epoch=2).possible_traces(4, num_epochs=2)
    assert found == {"as configured": [[boundary, boundary], [boundary, boundary]]}
