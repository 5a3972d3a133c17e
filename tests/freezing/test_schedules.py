import pytest

from afcore.freezing.decisions import FreezeState
from afcore.freezing.schedules import linear_schedule, never
from tests.freezing.intervals import interval


@pytest.mark.parametrize(("step", "boundary"), [(0, 0), (33, 0), (34, 1), (67, 2), (100, 3)])
def test_linear_schedule(step: int, boundary: int) -> None:
    state, decision = linear_schedule(FreezeState(), interval([1] * 4, step=step), depth=3)
    assert decision is not None
    assert state.boundary == decision.boundary_after == boundary


def test_linear_schedule_never_unfreezes() -> None:
    state, _ = linear_schedule(FreezeState(2), interval([1] * 4, step=1), depth=3)
    assert state.boundary == 2


def test_never() -> None:
    assert never(FreezeState(), interval([1] * 4)) == (FreezeState(), None)
