from typing import Any

import pytest
import torch

from afcore.training.optimizer import SuffixOptimizer
from afcore.training.schedule import Schedule
from tests.training_setup import make_examples, make_split, make_state, run_epochs

PAPER = [(0.0, 1.0), (0.3, 0.7), (0.6, 0.4)]


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]),
        ("linear", 0.2, [0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", 0.0, [1.0] * 10),
        ("constant", 0.3, [1 / 3, 2 / 3, 1.0] + [1.0] * 7),
        ("steps", 0.0, [1.0] * 3 + [0.7] * 3 + [0.4] * 4),
        ("wsd", 0.0, [1.0] * 9 + [0.5]),
        ("wsd", 0.2, [0.5] + [1.0] * 8 + [0.5]),
    ],
)
def test_schedules(schedule: Any, warmup: float, expected: list[float]) -> None:
    whole = Schedule(1, 10, kind=schedule, warmup_ratio=warmup, steps=PAPER)
    assert [whole.factor(step) for step in range(10)] == pytest.approx(expected)


def test_moments_by_name_survive_a_round_trip() -> None:
    state, examples = make_state(make_split()), make_examples()
    run_epochs(state, examples, 1)
    moments = {name: tensor.clone() for name, tensor in state.optimizer.moments().items()}
    assert len(moments) == 3 * len(list(state.split.model.parameters()))
    assert SuffixOptimizer(state.split, learning_rate=1e-3, weight_decay=0.01).moments() == {}
    other = SuffixOptimizer(state.split, learning_rate=1e-3, weight_decay=0.01, moments=moments)
    for name, tensor in other.moments().items():
        assert torch.equal(tensor, moments[name])


def test_vectors_are_not_decayed() -> None:
    split = make_split()
    split.set_training(0)
    optimizer = SuffixOptimizer(split, learning_rate=0.1, weight_decay=0.5)
    before = {name: p.detach().clone() for name, p in split.model.named_parameters()}
    for parameter in split.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step(1.0)
    for name, parameter in split.model.named_parameters():
        expected = before[name] * (0.95 if parameter.ndim >= 2 else 1.0)
        torch.testing.assert_close(parameter.detach(), expected)


def test_the_rate_is_the_peak_times_the_factor() -> None:
    split = make_split()
    split.set_training(0)
    assert SuffixOptimizer(split, learning_rate=0.1, weight_decay=0).step(0.25) == 0.025


def test_what_thawed_enters_with_a_warm_up_and_the_rest_goes_on() -> None:
    split = make_split()
    split.set_training(2)
    first = SuffixOptimizer(split, learning_rate=0.1, weight_decay=0.0)
    frozen = split.part_parameters("block.001")
    trained = split.part_parameters("block.003")
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(7):
        first.step(1.0)
    split.set_training(1)

    second = SuffixOptimizer(
        split,
        learning_rate=0.1,
        weight_decay=0.0,
        moments=first.moments(),
        step=7,
        thaw_steps=4,
    )

    moved = []
    for _ in range(5):
        before = {name: p.detach().clone() for name, p in (frozen | trained).items()}
        for parameter in (frozen | trained).values():
            parameter.grad = torch.ones_like(parameter)
        second.step(1.0)
        moved.append(
            tuple(
                float((before[name] - parameter.detach()).abs().mean())
                for name, parameter in (next(iter(frozen.items())), next(iter(trained.items())))
            )
        )
    # Equal gradients: Adam moves by its rate.
    thawed, kept = (pytest.approx(values, rel=1e-3) for values in zip(*moved, strict=True))
    assert thawed == [0.025, 0.05, 0.075, 0.1, 0.1]
    assert kept.expected[1:] == pytest.approx(kept.expected[1:])
