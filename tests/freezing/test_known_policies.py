"""What holds for every policy that a configuration can name."""

import importlib
import math
import random
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from afcore.freezing.known_policies import DEFAULT_POLICY, Policy
from afcore.freezing.policy import PER_BLOCK, FreezePolicy, FreezeState, IntervalStatistics
from afcore.results.replay import replay
from afcore.results.report import DecisionReport, RunReport
from afcore.results.traces import recorded_trace
from tests.freezing.intervals import interval
from tests.reports import make_report

NUM_BLOCKS, EPOCHS, STEPS = 4, 4, 40
KINDS: tuple[type[FreezePolicy], ...] = get_args(Policy)
STATES = TypeAdapter(FreezeState)


def noisy_report(seed: int) -> RunReport:
    """A run that trained every block, with 5 intervals of 8 steps an epoch: chance alone."""
    rng = random.Random(seed)
    intervals, losses = [], tuple(rng.uniform(0.9, 1.2) for _ in range(EPOCHS))
    for step in range(8, EPOCHS * STEPS + 1, 8):
        per_block = {name: [rng.uniform(0.5, 2) for _ in range(NUM_BLOCKS)] for name in PER_BLOCK}
        per_block["sums_of_squares"] = [rng.uniform(1, 3) for _ in range(NUM_BLOCKS)]
        intervals.append(
            IntervalStatistics(
                step=step,
                epoch=1 + (step - 1) // STEPS,
                num_steps=8,
                total_steps=EPOCHS * STEPS,
                num_epochs=EPOCHS,
                validation_losses=losses[: step // STEPS],
                learning_rate=1e-4,
                train_loss=rng.uniform(0.9, 1.0),
                train_loss_error=0.1,
                cycle_share=(1 + (step - 1) // STEPS) / EPOCHS,
                chance_loss=2.0,
                **per_block,
            )
        )
    report = make_report(mode="freeze")
    epochs = [
        report.epochs[0].model_copy(
            update={
                "epoch": epoch,
                "num_steps": STEPS,
                "boundary_start": 0,
                "validation": {"accuracy": 0.5, "loss": losses[epoch - 1]},
            }
        )
        for epoch in range(1, EPOCHS + 1)
    ]
    return report.model_copy(update={"epochs": epochs, "intervals": intervals, "decisions": []})


def decided_trace(report: RunReport, policy: FreezePolicy) -> list[list[int]]:
    """The boundaries that were in force, had the policy decided."""
    start = policy.begin(report.num_blocks).boundary
    decisions, before = [], start
    for row in replay(report, policy).intervals:
        decisions.append(
            DecisionReport(
                step=row.step,
                epoch=row.epoch,
                eta=(),
                threshold=0.0,
                boundary_before=before,
                boundary_after=row.replayed,
            )
        )
        before = row.replayed
    before_step = {decision.step: decision.boundary_before for decision in decisions}
    epochs = [
        epoch.model_copy(update={"boundary_start": before_step[STEPS * (epoch.epoch - 1) + 8]})
        for epoch in report.epochs
    ]
    return recorded_trace(report.model_copy(update={"epochs": epochs, "decisions": decisions}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_contains_what_is_decided(kind: type[FreezePolicy], seed: int) -> None:
    policy = kind()  # type: ignore[call-arg]
    ends = policy.possible_traces(NUM_BLOCKS, EPOCHS)
    assert ends
    decided = decided_trace(noisy_report(seed), policy)
    assert [len(epoch) for epoch in decided] == [policy.intervals_per_epoch] * EPOCHS
    for epoch, boundaries in enumerate(decided):
        for number, boundary in enumerate(boundaries):
            # Where training may stop early, one of the ends is shorter.
            at_ends = [trace[epoch][number] for trace in ends.values() if epoch < len(trace)]
            assert min(at_ends) <= boundary <= max(at_ends), (epoch, number)


@pytest.mark.parametrize(
    ("name", "seed"),
    [("frozen_start", 0), ("guarded", 0), ("gradient_norm", 0), ("linear", 0), ("annealed", 0)],
)
def test_the_recorded_intervals_make_policies_freeze(name: str, seed: int) -> None:
    """Else what the plan contains would be nothing."""
    (kind,) = [kind for kind in KINDS if _name(kind) == name]
    policy = kind()  # type: ignore[call-arg]
    assert max(decided_trace(noisy_report(seed), policy)[-1]) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_says_whether_it_starts_frozen(kind: type[FreezePolicy]) -> None:
    policy = kind()  # type: ignore[call-arg]
    assert kind.starts_frozen is (policy.begin(NUM_BLOCKS).boundary > 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_goes_on_from_json_as_from_memory(kind: type[FreezePolicy]) -> None:
    policy = kind()  # type: ignore[call-arg]
    state = restored = policy.begin(NUM_BLOCKS)
    for statistics in _intervals():
        if not statistics.validation_losses and not policy.keeps_statistics:
            continue  # asked at the ends of epochs alone
        state, decision = policy.decide(state, statistics)
        restored, again = policy.decide(restored, statistics)
        assert repr(again) == repr(decision)  # NaN is not equal to itself
        restored = STATES.validate_json(STATES.dump_json(restored))
        assert restored == state


def _intervals() -> list[IntervalStatistics]:
    """20 of them; in the last the top block's norm is infinite."""
    losses = (1.0, 1.0, 1.0, 1.0)
    return [
        interval(
            [0.0, rise, 2 * rise, math.inf if number == 20 else 3 * rise],
            step=5 * number,
            coherences=[1.0, 1.0, 2.0, 1.0],
            epoch=(epoch := 1 + (number - 1) // 5),
            validation_losses=losses[: epoch - (number % 5 > 0)],
        )
        for number, rise in enumerate([1.0, 2.0, 1.5, 1.5] * 5, start=1)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_called_as_its_policy(kind: type[FreezePolicy]) -> None:
    module = importlib.import_module(f"afcore.freezing.{_name(kind)}")
    assert getattr(module, kind.__name__) is kind


def test_the_default_is_one_of_them() -> None:
    assert DEFAULT_POLICY in KINDS


def _name(kind: type[FreezePolicy]) -> Any:
    return kind.model_fields["policy"].default
