import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from afcore.errors import AutoFreezeError
from afcore.freezing.gradient_norm import GradientNorm
from afcore.freezing.policy import FreezePolicy
from afcore.tasks.known_tasks import find_score
from afcore.training.loop import interval_ends
from tests.training_setup import (
    NUM_BLOCKS,
    make_examples,
    make_split,
    make_state,
    run_epochs,
    scripted,
)


@pytest.mark.parametrize(
    ("steps", "intervals", "ends"),
    [(10, 5, [2, 4, 6, 8, 10]), (7, 2, [4, 7]), (3, 5, [1, 2, 3]), (1, 4, [1])],
)
def test_the_last_step_always_ends_an_interval(steps: int, intervals: int, ends: list[int]) -> None:
    assert interval_ends(steps, intervals) == ends


def test_decisions_take_effect_at_the_next_step() -> None:
    state, examples = make_state(make_split()), make_examples()
    done = run_epochs(state, examples, 2, scripted([1, 1, 2, 3]))
    assert [step.boundary for epoch in done for step in epoch.steps] == [
        0,
        0,
        1,
        1,
        1,
        1,
        1,
        2,
        2,
        2,
    ]
    assert [i.decision.boundary_after for e in done for i in e.intervals] == [1, 1, 2, 3]
    assert [i.statistics.num_steps for e in done for i in e.intervals] == [2, 3, 2, 3]
    assert state.freeze.boundary == 3
    assert state.step == 10


def test_the_last_decision_of_an_epoch_knows_its_validation_loss() -> None:
    state, examples = make_state(make_split()), make_examples()
    evaluated: list[int] = []

    def validate() -> dict[str, float]:
        evaluated.append(state.step)
        return {"loss": 0.5, "accuracy": 0.25}

    (done,) = run_epochs(
        state, examples, 1, scripted([1, 3]), validate=validate, validations=({"loss": 0.75},)
    )
    assert evaluated == [len(done.steps)]
    assert done.validation == {"loss": 0.5, "accuracy": 0.25}
    known = [interval.statistics.validation_losses for interval in done.intervals]
    assert known == [(0.75,), (0.75, 0.5)]
    frozen = state.split.frozen_parts(3)
    left = {id(p) for p in state.optimizer.parameters}
    assert not any(
        id(p) in left for part in frozen for p in state.split.part_parameters(part).values()
    )


@pytest.mark.parametrize(("score", "settled"), [("accuracy", True), ("f1_macro", False)])
@pytest.mark.parametrize("policy", [None, scripted([0, 0])])
def test_the_main_score_has_a_say_in_when_training_has_settled(
    policy: FreezePolicy | None, score: str, settled: bool
) -> None:
    state, before = make_state(make_split()), {"loss": 0.5, "accuracy": 0.9, "f1_macro": 0.5}
    (done,) = run_epochs(
        state,
        make_examples(),
        1,
        policy,
        validations=(before,),
        validate=lambda: {"loss": 0.6, "accuracy": 0.9, "f1_macro": 0.6},
        score=find_score("text-classification", score),
    )
    assert state.freeze.settled is settled
    if policy is not None:
        seen = [interval.statistics.validation_errors for interval in done.intervals]
        expected = [(0.5,), (0.5, pytest.approx(0.4))] if score == "f1_macro" else [(), ()]
        assert seen == expected


def test_an_epoch_that_is_stopped_is_not_evaluated() -> None:
    state, examples = make_state(make_split()), make_examples()
    stop = iter([False, True])
    (done,) = run_epochs(
        state, examples, 1, scripted([0]), validate=lambda: {}["never"], stop=lambda: next(stop)
    )
    assert len(done.steps) == 2
    assert done.validation == {}


def test_statistics_of_frozen_blocks_are_zero_and_of_others_not() -> None:
    state, examples = make_state(make_split()), make_examples()
    done = run_epochs(state, examples, 2, scripted([2, 2, 2, 2]))
    norms = [i.statistics.gradient_norms for e in done for i in e.intervals]
    assert all(norm > 0 for norm in norms[0])
    for later in norms[1:]:
        assert later[:2] == (0, 0)
        assert min(later[2:]) > 0


def test_the_papers_policy_runs_and_only_grows() -> None:
    state, examples = make_state(make_split()), make_examples()
    done = run_epochs(state, examples, 4, GradientNorm())
    decisions = [i.decision for e in done for i in e.intervals]
    assert decisions[0] is None
    after = [d.boundary_after for d in decisions if d is not None]
    assert after == sorted(after)
    assert after[-1] > 0


def test_no_decision_is_taken_once_only_the_last_block_trains() -> None:
    state, examples = make_state(make_split(), boundary=NUM_BLOCKS - 1), make_examples()
    state.freeze = replace(state.freeze, memory={"previous": [1.0] * NUM_BLOCKS})
    (done,) = run_epochs(state, examples, 1, GradientNorm())
    assert len(done.intervals) > 1
    assert {interval.decision for interval in done.intervals} == {None}
    assert state.freeze.memory == {"previous": [1.0] * NUM_BLOCKS}
    assert sum(interval.statistics.num_steps for interval in done.intervals) == len(done.steps)


@pytest.mark.parametrize("clipping", [1.0, 0.0])
@pytest.mark.parametrize("boundary", [0, NUM_BLOCKS - 1])
def test_a_gradient_that_is_not_finite_is_never_committed(boundary: int, clipping: float) -> None:
    state, examples = make_state(make_split(), boundary=boundary), make_examples()
    weight = state.split.model.classifier.weight
    num_steps = len(run_epochs(state, examples, 1)[0].steps)
    seen: list[int] = []

    def spoil_the_last(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * (math.inf if len(seen) == num_steps else 1.0)

    weight.register_hook(spoil_the_last)
    with pytest.raises(AutoFreezeError, match="gradients are not finite"):
        run_epochs(state, examples, 1, max_grad_norm=clipping)
    assert len(seen) == num_steps


def test_training_learns() -> None:
    state, examples = make_state(make_split(0.0)), make_examples()
    done = run_epochs(state, examples, 15)
    assert done[-1].mean_loss < 0.7 * done[0].mean_loss


def test_a_diverging_loss_stops_the_run() -> None:
    state, examples = make_state(make_split()), make_examples()
    with torch.no_grad():
        state.split.model.classifier.bias[0] = math.nan
    with pytest.raises(AutoFreezeError, match="training diverged"):
        run_epochs(state, examples, 1)


def test_seconds_add_up() -> None:
    state, examples = make_state(make_split(), boundary=2), make_examples()
    (done,) = run_epochs(state, examples, 1)
    assert done.train_seconds == pytest.approx(
        done.prefix_seconds + done.suffix_seconds + done.read_seconds
    )
    assert min(done.prefix_seconds, done.suffix_seconds, done.read_seconds) > 0


def test_micro_batches_give_the_gradients_of_the_whole_batch() -> None:
    examples = make_examples()
    losses = []
    for micro_batch in (None, 3, 1):
        state = make_state(make_split(dropout=0.0))
        done = run_epochs(state, examples, 2, scripted([0, 1, 2, 2]), micro_batch=micro_batch)
        losses.append([step.loss for epoch in done for step in epoch.steps])
    np.testing.assert_allclose(losses[1], losses[0], atol=1e-5, rtol=0)
    np.testing.assert_allclose(losses[2], losses[0], atol=1e-5, rtol=0)
