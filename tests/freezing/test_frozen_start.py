import pytest

from afcore.freezing.frozen_start import FrozenStart
from afcore.freezing.policy import FreezeState, IntervalStatistics
from tests.freezing.intervals import interval


def after(losses: list[float], ends_cycle: bool = True, chance: float = 2.0) -> IntervalStatistics:
    """At the end of an epoch of a model of six blocks."""
    statistics = interval([0.0] * 6, epoch=len(losses), validation_losses=tuple(losses))
    return statistics.model_copy(
        update={"ends_cycle": ends_cycle, "chance_loss": chance, "num_epochs": 20}
    )


@pytest.mark.parametrize(
    ("num_blocks", "tolerance", "boundary", "rate"),
    [
        (6, 0.0, 2, 2.0),
        (6, 0.5, 3, 2.0),
        (6, 2.0, 4, 2.0),
        (6, 50.0, 4, 2.0),
        (12, 0.25, 5, 2.0),
        (12, 0.5, 6, 2.0),
        (12, 2.0, 8, 2.0),
        (2, 2.0, 1, 2.0),
    ],
)
def test_the_tolerance_says_how_deep_it_starts(
    num_blocks: int, tolerance: float, boundary: int, rate: float
) -> None:
    assert FrozenStart(tolerance=tolerance).begin(num_blocks) == FreezeState(boundary, rate)


def test_a_depth_that_was_asked_for_is_taken() -> None:
    assert FrozenStart(depth=5).begin(6, num_pretrained=0).boundary == 5
    with pytest.raises(ValueError, match="at most 5 can be frozen"):
        FrozenStart(depth=6).begin(6)


@pytest.mark.parametrize(("num_pretrained", "boundary"), [(None, 3), (6, 3), (1, 1), (0, 0)])
def test_blocks_that_were_drawn_at_random_are_not_frozen(
    num_pretrained: int | None, boundary: int
) -> None:
    assert FrozenStart().begin(6, num_pretrained).boundary == boundary


@pytest.mark.parametrize(
    ("losses", "ends_cycle", "settled"),
    [
        ([1.0], False, False),
        ([1.0, 0.95], True, True),
        ([1.0, 0.95], False, False),
        ([1.0, 0.89], True, False),
        ([1.0, 0.8, 0.78, 0.75], True, True),
    ],
)
def test_training_settles_at_the_end_of_a_cycle_that_gained_little(
    losses: list[float], ends_cycle: bool, settled: bool
) -> None:
    policy = FrozenStart()
    state, decision = policy.decide(policy.begin(6), after(losses, ends_cycle))
    assert state.settled is settled
    assert (state.boundary, decision.boundary_after) == (3, 3)


def test_a_main_score_that_gains_keeps_training_going() -> None:
    policy = FrozenStart()
    for errors, settled in (((0.5, 0.48), True), ((0.5, 0.4), False)):
        statistics = after([1.0, 0.95]).model_copy(update={"validation_errors": errors})
        assert policy.decide(policy.begin(6), statistics)[0].settled is settled


def test_a_model_that_has_not_begun_to_learn_is_thawed_and_goes_on() -> None:
    policy = FrozenStart(tolerance=2.0)
    state, decision = policy.decide(policy.begin(6), after([1.95, 1.94]))
    assert state == FreezeState(0, rate=1.0)
    assert (decision.boundary_before, decision.boundary_after) == (4, 0)


def test_without_tolerance_it_thaws_until_that_improves_nothing() -> None:
    policy = FrozenStart(tolerance=0.0)
    state, losses = policy.begin(6), [1.0, 1.0]
    boundaries, settled = [], []
    for gained in (0.9, 0.9, 0.8, 0.8, 0.85, 0.85):
        state, _ = policy.decide(state, after(losses))
        boundaries.append(state.boundary)
        settled.append(state.settled)
        losses += [gained, gained]
    # 1.0 settles at 2: thaw to 1. 0.9 is a new best: thaw to 0. 0.9 again: done.
    assert boundaries[:3] == [1, 0, 0]
    assert settled[:3] == [False, False, True]


def test_it_does_not_thaw_for_less_than_a_cycle() -> None:
    policy = FrozenStart(tolerance=0.0)
    statistics = after([1.0, 1.0]).model_copy(update={"num_epochs": 4})
    assert policy.cycle_epochs == 3
    assert policy.decide(policy.begin(6), statistics)[0].settled


def test_what_a_plan_knows() -> None:
    found = FrozenStart(intervals_per_epoch=1).possible_traces(6, num_epochs=4)
    assert found == {
        "all epochs": [[3], [3], [3], [3]],
        "thaws after epoch 1": [[3], [0], [0], [0]],
    }
