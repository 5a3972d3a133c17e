from afcore.freezing.none import NoFreezing
from afcore.freezing.policy import FreezeState
from tests.freezing.intervals import interval


def test_nothing_ever_freezes() -> None:
    policy = NoFreezing()
    assert policy.begin(4) == FreezeState()
    assert policy.decide(FreezeState(), interval([1] * 4)) == (FreezeState(), None)


def test_its_statistics_are_kept_for_replays() -> None:
    assert NoFreezing().keeps_statistics


def test_what_a_plan_knows() -> None:
    found = NoFreezing(intervals_per_epoch=2).possible_traces(4, num_epochs=2)
    assert found == {"nothing freezes": [[0, 0], [0, 0]]}
