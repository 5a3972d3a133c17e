import json
import math

import pytest
from pydantic import TypeAdapter, ValidationError

from afcore.freezing.policy import FreezePolicy, FreezeState, by_epoch, check_depth
from tests.training_setup import Scripted

STATES = TypeAdapter(FreezeState)


@pytest.mark.parametrize(
    "memory",
    [
        {},
        {"previous": [1.5, math.inf, -math.inf, 0.1 + 0.2]},
        {"of": {"any": [{"depth": [None, True, 3, "text", "Infinity"]}]}},
    ],
)
def test_a_state_comes_back_from_json_as_it_was(memory: dict[str, object]) -> None:
    state = FreezeState(2, rate=0.5, memory=memory)
    text = STATES.dump_json(state)
    assert STATES.validate_json(text) == state
    json.loads(text, parse_constant=_refuse)


def test_undefined_numbers_in_a_memory_come_back() -> None:
    text = STATES.dump_json(FreezeState(memory={"eta": [math.nan]}))
    assert math.isnan(STATES.validate_json(text).memory["eta"][0])


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_what_a_policy_need_not_say() -> None:
    policy = Scripted(boundaries=[])
    assert policy.begin(4) == FreezeState()
    assert policy.keeps_statistics
    assert policy.possible_traces(4, 2) is None
    assert policy.intervals_per_epoch == 5


def test_unknown_keys_and_changes_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Scripted(boundaries=[], depth=1)
    with pytest.raises(ValidationError, match="frozen"):
        Scripted(boundaries=[]).boundaries = [1]


def test_a_policy_has_to_decide() -> None:
    with pytest.raises(TypeError, match="decide"):
        FreezePolicy(policy="idle")  # type: ignore[abstract]


@pytest.mark.parametrize("depth", [None, 0, 3])
def test_a_depth_that_leaves_a_block(depth: int | None) -> None:
    check_depth(depth, num_blocks=4)


def test_a_depth_that_leaves_none() -> None:
    with pytest.raises(ValueError, match=r"freezing\.depth is 4, but of 4 blocks at most 3"):
        check_depth(4, num_blocks=4)


def test_boundaries_by_epoch() -> None:
    assert by_epoch([0, 1, 1, 2], 2) == [[0, 1], [1, 2]]
