import pytest

from afcore.freezing.frozen_start import FrozenStart
from afcore.freezing.policy import FreezeState, IntervalStatistics
from tests.freezing.intervals import interval


def after(
    losses: list[float], share: float = 1.0, chance: float = 2.0, num_blocks: int = 6
) -> IntervalStatistics:
    """At the end of an epoch, after a share of its cycle."""
    statistics = interval([0.0] * num_blocks, epoch=len(losses), validation_losses=tuple(losses))
    return statistics.model_copy(
        update={"cycle_share": share, "chance_loss": chance, "num_epochs": 20}
    )


def boundaries(policy: FrozenStart, num_blocks: int, shares: list[float]) -> list[int]:
    """Of each epoch of a cycle, in which the loss stands still."""
    state = policy.begin(num_blocks)
    found = [state.boundary]
    for epoch, share in enumerate(shares, start=1):
        state, _ = policy.decide(state, after([1.0] * epoch, share, num_blocks=num_blocks))
        found.append(state.boundary)
    return found


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
    state = FrozenStart(tolerance=tolerance).begin(num_blocks)
    assert state == FreezeState(boundary, rate, memory={"start": boundary})


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
    ("tolerance", "num_blocks", "shares", "found"),
    [
        (0.0, 6, [0.25, 0.5, 0.75], [2, 3, 4, 5]),
        (0.25, 12, [0.25, 0.5, 0.75], [5, 7, 9, 11]),
        (0.5, 6, [0.25, 0.5, 0.75], [3, 4, 5, 5]),
        (2.0, 6, [0.25, 0.5, 0.75], [4, 5, 5, 5]),
        (0.5, 12, [0.25, 0.5, 0.75], [6, 8, 10, 11]),
        (0.5, 24, [0.25, 0.5, 0.75], [12, 16, 20, 23]),
        (0.5, 4, [0.25, 0.5, 0.75], [2, 2, 3, 3]),
        (0.5, 2, [0.25, 0.5, 0.75], [1, 1, 1, 1]),
        (0.5, 6, [1 / 3, 2 / 3], [3, 4, 5]),
        (0.5, 6, [epoch / 10 for epoch in range(1, 10)], [3, 3, 3, 4, 4, 5, 5, 5, 5, 5]),
    ],
)
def test_more_blocks_freeze_over_a_cycle_until_the_last_one_trains_alone(
    tolerance: float, num_blocks: int, shares: list[float], found: list[int]
) -> None:
    assert boundaries(FrozenStart(tolerance=tolerance), num_blocks, shares) == found


@pytest.mark.parametrize(
    ("losses", "found", "without_tolerance"),
    [
        # Of a chance of 2.0: known.
        ([1.1, 1.0, 0.9], [4, 5, 5], [3, 4, 5]),
        # The blocks that train are at work in epoch 2.
        ([1.1, 0.8, 0.7], [4, 4, 5], [3, 3, 5]),
        # What rises again was known.
        ([1.1, 1.3, 1.3], [4, 5, 5], [3, 4, 5]),
        # Unknown: without tolerance all are trained once, ...
        ([1.3, 1.1, 1.2], [4, 5, 5], [0, 4, 5]),
        # ... and again, as that lowers the loss by much, ...
        ([1.3, 0.9, 0.8], [4, 4, 5], [0, 0, 5]),
        # ... but once, whatever comes of it: what was learned stays so.
        ([1.3, 1.5, 2.6], [4, 5, 5], [0, 4, 5]),
        # Nothing is learned.
        ([1.95, 1.94, 1.93], [0, 0, 0], [0, 0, 0]),
        # Something is.
        ([1.95, 1.7, 1.6], [0, 5, 5], [0, 4, 5]),
    ],
)
def test_all_blocks_train_until_the_model_learns_and_without_tolerance_until_the_task_is_known(
    losses: list[float], found: list[int], without_tolerance: list[int]
) -> None:
    for tolerance, expected in ((0.5, found), (0.0, without_tolerance)):
        policy = FrozenStart(tolerance=tolerance)
        state, boundaries = policy.begin(6), []
        for epoch in (1, 2, 3):
            state, _ = policy.decide(state, after(losses[:epoch], share=epoch / 4))
            boundaries.append(state.boundary)
            assert state.rate == (2.0 if state.boundary else 1.0)
        assert boundaries == expected


@pytest.mark.parametrize(("train_loss", "boundary"), [(1.0, 4), (1.2, 4), (1.3, 3)])
def test_nothing_more_freezes_after_a_first_epoch_in_which_the_task_was_unknown(
    train_loss: float, boundary: int
) -> None:
    policy = FrozenStart()
    statistics = after([1.0], share=0.25).model_copy(update={"train_loss": train_loss})
    assert policy.decide(policy.begin(6), statistics)[0].boundary == boundary


def test_without_a_loss_of_chance_nothing_more_freezes() -> None:
    policy = FrozenStart()
    state, _ = policy.decide(policy.begin(6), after([0.1], share=0.5, chance=0.0))
    assert state.boundary == 3


def test_what_was_not_frozen_from_the_start_does_not_freeze() -> None:
    policy = FrozenStart()
    state, _ = policy.decide(policy.begin(6, num_pretrained=0), after([0.1], share=0.75))
    assert (state.boundary, state.rate) == (0, 1.0)


@pytest.mark.parametrize(
    ("losses", "settled"),
    [
        ([1.0, 0.95], True),
        ([1.0, 0.89], False),
        ([1.0, 0.8, 0.78, 0.75], True),
    ],
)
def test_training_settles_at_the_end_of_a_cycle_that_gained_little(
    losses: list[float], settled: bool
) -> None:
    policy = FrozenStart()
    assert not policy.decide(policy.begin(6), after(losses, share=0.5))[0].settled
    risen = FreezeState(5, 2.0, memory={"start": 3})
    state, decision = policy.decide(risen, after(losses))
    assert state.settled is settled
    # Another cycle begins where the first one did.
    assert state.boundary == decision.boundary_after == (5 if settled else 3)


def test_nothing_thaws_for_an_epoch_that_will_not_be() -> None:
    policy = FrozenStart()
    last = after([1.0, 0.5]).model_copy(update={"num_epochs": 2})
    state, _ = policy.decide(FreezeState(5, 2.0, memory={"start": 3}), last)
    assert (state.boundary, state.settled) == (5, False)


def test_a_main_score_that_gains_keeps_training_going() -> None:
    policy = FrozenStart()
    for errors, settled in (((0.5, 0.48), True), ((0.5, 0.4), False)):
        statistics = after([1.0, 0.95]).model_copy(update={"validation_errors": errors})
        assert policy.decide(policy.begin(6), statistics)[0].settled is settled


def test_a_model_that_has_not_begun_to_learn_is_thawed_and_goes_on() -> None:
    policy = FrozenStart(tolerance=2.0)
    state, decision = policy.decide(policy.begin(6), after([1.95, 1.94]))
    assert state == FreezeState(0, rate=1.0, memory={"start": 4, "thawed": True})
    assert (decision.boundary_before, decision.boundary_after) == (4, 0)
    learned, _ = policy.decide(state, after([1.95, 1.94, 0.5], share=0.75))
    assert learned.boundary == 0
    again, _ = policy.decide(state, after([1.95, 1.94, 1.2, 0.5]))
    assert (again.boundary, again.settled) == (4, False)


def test_without_tolerance_it_thaws_until_that_improves_nothing() -> None:
    policy = FrozenStart(tolerance=0.0)
    state, losses = policy.begin(6), [1.0, 1.0]
    starts, settled = [], []
    for gained in (0.9, 0.9, 0.85, 0.85):
        state, _ = policy.decide(state, after(losses))
        starts.append(state.boundary)
        settled.append(state.settled)
        losses += [gained, gained]
    # 1.0 settles at 2: thaw to 1. 0.9 is a new best: thaw to 0. 0.9 again: done.
    assert starts == [1, 0, 0, 0]
    assert settled == [False, False, True, True]


def test_it_does_not_thaw_for_less_than_a_cycle() -> None:
    policy = FrozenStart(tolerance=0.0)
    statistics = after([1.0, 1.0]).model_copy(update={"num_epochs": 4})
    assert policy.cycle_epochs == 4
    assert policy.decide(policy.begin(6), statistics)[0].settled


@pytest.mark.parametrize(
    ("num_epochs", "cycle", "rises"),
    [(4, 4, [3, 4, 5, 5]), (8, 4, [3, 4, 5, 5, 3, 4, 5, 5]), (3, None, [3, 4, 5]), (1, 4, [3])],
)
def test_what_a_plan_knows(num_epochs: int, cycle: int | None, rises: list[int]) -> None:
    found = FrozenStart(intervals_per_epoch=1).possible_traces(6, num_epochs, cycle)
    thaws = {"thaws after epoch 1": [[3]] + [[0]] * (num_epochs - 1)} if num_epochs > 1 else {}
    assert found == {"rises": [[boundary] for boundary in rises], **thaws}
