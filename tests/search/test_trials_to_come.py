"""Which trials may begin alike, and how those that do go on."""

from typing import Any

import pytest

from afcore.config import Range
from afcore.search.space import Dimension, Space
from afcore.search.trials_to_come import late_settings_to_come, may_share_epochs

RATE = "training.learning_rate"
EPOCHS = Dimension("training.epochs", Range(low=2, high=9))
SCHEDULE = Dimension("training.schedule", ["wsd", "linear"])
STEPS = Dimension("training.steps", [[[0.0, 1.0]], [[0.0, 1.0], [0.5, 0.1]]])
POLICY = Dimension("freezing.policy", ["static", "guarded"])
OWNED = Dimension("freezing.tolerance", Range(low=0.1, high=0.5), frozenset({"guarded"}))


@pytest.mark.parametrize(
    ("varied", "expected"),
    [
        ([EPOCHS], True),
        ([Dimension("training.decay_ratio", Range(low=0.1, high=0.5))], True),
        ([EPOCHS, Dimension(RATE, [1e-4, 1e-3])], True),
        ([EPOCHS, Dimension(RATE, Range(low=0.1, high=0.3, step=0.1))], True),
        ([EPOCHS, Dimension("training.batch_size", Range(low=8, high=64, log=True))], True),
        ([EPOCHS, Dimension(RATE, Range(low=1e-4, high=1e-3, log=True))], False),
        ([Dimension(RATE, [1e-4, 1e-3])], False),
    ],
)
def test_a_key_that_is_never_drawn_twice_alike_leaves_nothing_in_common(
    varied: list[Dimension], expected: bool
) -> None:
    space = Space(tuple(varied))
    assert may_share_epochs(space, dict.fromkeys(one.key for one in varied)) == expected


@pytest.mark.parametrize(("policy", "expected"), [("static", True), ("guarded", False)])
def test_a_key_of_another_policy_says_nothing(policy: str, expected: bool) -> None:
    space = Space((POLICY, OWNED, EPOCHS))
    values = space.propose(lambda one: policy if one is POLICY else 3)
    assert may_share_epochs(space, values) == expected


def test_of_those_that_are_listed_count_those_that_begin_alike() -> None:
    space = Space((Dimension(RATE, [1e-4, 1e-3]), EPOCHS, STEPS))
    listed = [
        space.labels({RATE: rate, EPOCHS.key: epochs, STEPS.key: steps})
        for rate, epochs, steps in [
            (1e-4, 2, STEPS.varied[0]),  # type: ignore[index]
            (1e-3, 5, STEPS.varied[1]),  # type: ignore[index]
            (1e-4, 7, STEPS.varied[1]),  # type: ignore[index]
        ]
    ]
    own = {RATE: 1e-4, EPOCHS.key: 3, STEPS.key: [[0.0, 1.0]]}
    assert late_settings_to_come(space, own, listed) == [
        {"epochs": 2, "steps": [[0.0, 1.0]]},
        {"epochs": 7, "steps": [[0.0, 1.0], [0.5, 0.1]]},
    ]
    assert late_settings_to_come(space, own, []) == []


def test_of_any_that_may_come_count_those_with_most_in_common() -> None:
    space = Space((EPOCHS, SCHEDULE))
    found = late_settings_to_come(space, {EPOCHS.key: 9, SCHEDULE.key: "wsd"}, None)
    expected: list[dict[str, Any]] = [
        {"epochs": epochs, "schedule": schedule}
        for epochs in (2, 3, 8, 9)
        for schedule in ("wsd", "linear")
    ]
    expected.remove({"epochs": 9, "schedule": "wsd"})
    assert found == expected
