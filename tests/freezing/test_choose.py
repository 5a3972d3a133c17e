from typing import Any

import pytest

from afcore.config import FreezingConfig
from afcore.freezing.choose import choose_policy
from afcore.freezing.decisions import FreezeState
from afcore.freezing.guarded import guarded_test
from tests.freezing.intervals import interval


def chosen(**settings: Any) -> Any:
    return choose_policy(num_blocks=6, **FreezingConfig(**settings).policy_arguments())


@pytest.mark.parametrize(
    ("name", "depth", "boundary"),
    [
        ("static", None, 3),
        ("static", 5, 5),
        ("none", None, 0),
        ("gradient_norm", None, 0),
        ("guarded", None, 0),
    ],
)
def test_where_policies_begin(name: str, depth: int | None, boundary: int) -> None:
    policy, state = chosen(policy=name, depth=depth)
    assert state.boundary == boundary
    if name in ("static", "none"):
        assert policy(state, interval([1] * 6)) == (state, None)


def test_settings_reach_the_policy() -> None:
    policy, _ = chosen(policy="guarded", patience=3, noise_ratio=1.5)
    assert policy.func is guarded_test
    assert policy.keywords == {"patience": 3, "noise_ratio": 1.5}


def test_a_depth_that_leaves_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="of 6 blocks at most 5 can be frozen"):
        chosen(policy="static", depth=6)


def test_states_are_unfrozen_at_first() -> None:
    assert chosen(policy="guarded")[1] == FreezeState()
