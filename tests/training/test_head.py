"""The head solved before the first step."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from afcore.model.split_model import Batch, SplitModel
from afcore.training import head, solved_head
from afcore.training.head import PENALTY, HeadFeatures, batches_to_solve_on, solve_head
from afcore.training.trained import TrainingState
from tests.training_setup import TASK, make_examples, make_split, make_state, run_epochs


@pytest.mark.parametrize("bias", [True, False])
def test_the_solution_is_where_the_gradient_of_the_objective_is_zero(bias: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 5) * torch.tensor([1.0, 10.0, 0.1, 1.0, 1.0]) + 3
    labels = (features[:, 0] + features[:, 1] / 10 > 3.3).long() + (features[:, 3] > 4).long()
    layer = nn.Linear(5, 3, bias=bias)

    objective = solve_head(layer, features, partial(nn.functional.cross_entropy, target=labels))

    # In the coordinates in which it was solved.
    scale = features.square().mean(0).sqrt()
    mean = features.mean(0) if bias else torch.zeros(5)
    weight = (layer.weight.detach() * scale).requires_grad_()
    shift = torch.zeros(3)
    if bias:
        shift = (layer.bias.detach() + layer.weight.detach() @ mean).requires_grad_()
    logits = (features - mean) / scale @ weight.T + shift
    loss = nn.functional.cross_entropy(logits, labels) + 0.25 * PENALTY * weight.square().sum() / 2
    loss.backward()
    assert objective == pytest.approx(loss.item(), rel=1e-4)
    assert weight.grad.abs().max() < 2e-3


def test_features_are_what_the_last_layer_reads() -> None:
    split, examples = make_split(dropout=0.0), make_examples()
    split.model.eval()

    batch, _ = TASK.collate(examples, torch.arange(4).numpy(), torch.device("cpu"))
    found = HeadFeatures(split, 3)
    features = found.take(batch, 0, None)
    torch.testing.assert_close(found.layer(features), split.logits(batch))
    assert HeadFeatures(split, 17).take(batch, 0, None) is None


def test_products_of_all_positions_may_be_rounded_otherwise_in_bf16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a GPU rounds them, which adds up in another order where a matrix has more rows."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    split = SplitModel(transformers.BertForTokenClassification(config).eval())
    found = HeadFeatures(split, 3)
    assert found.layer is not None
    with torch.no_grad():
        found.layer.bias.fill_(0.9)
    plain = found.layer.forward

    def forward(states: Tensor) -> Tensor:
        outputs = plain(states)
        upwards = torch.full_like(outputs, math.inf)
        return torch.nextafter(outputs, upwards) if states.ndim == 3 else outputs

    monkeypatch.setattr(found.layer, "forward", forward)
    batch, _ = TASK.collate(make_examples(), np.arange(4), torch.device("cpu"))
    at = batch["attention_mask"] != 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = found.take(batch, 0, None, at)
        assert features is not None
        assert features.shape == (int(at.sum()), 32)
        monkeypatch.setattr(found.layer, "forward", lambda states: plain(states) * states.ndim)
        assert found.take(batch, 0, None, at) is None


def test_features_that_hardly_differ_get_no_weights_that_dropout_blows_up() -> None:
    torch.manual_seed(0)
    features = torch.randn(200, 4) * 1e-3 + 1.0
    labels = (features[:, 0] > 1.0).long()
    layer = nn.Linear(4, 2)

    solve_head(layer, features, partial(nn.functional.cross_entropy, target=labels))

    dropped = nn.functional.dropout(features, 0.1)
    loss = nn.functional.cross_entropy(layer(dropped), labels)
    assert loss < 0.8  # chance: 0.69


@pytest.mark.parametrize(
    ("num_batches", "num_outputs", "expected"),
    [(10, 2, 10), (64, 2, 64), (65, 2, 64), (640, 2, 64), (640, 100, 200), (150, 100, 150)],
)
def test_a_head_is_solved_on_some_batches_from_all_parts_of_an_epoch(
    num_batches: int, num_outputs: int, expected: int
) -> None:
    batches = np.split(np.arange(16 * num_batches), num_batches)
    chosen = batches_to_solve_on(batches, num_outputs)
    firsts = [int(ids[0]) // 16 for ids in chosen]
    assert len(set(firsts)) == expected
    assert firsts == sorted(firsts)
    # As many of each half, but for rounding: an epoch may go through a sorted file in windows.
    early = sum(first < num_batches / 2 for first in firsts)
    assert abs(2 * early - expected) <= 2


def test_only_those_batches_are_run_to_solve_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "_EXAMPLES", 24)
    monkeypatch.setattr(head, "_EXAMPLES_OF_OUTPUT", 8)
    split, taken = make_split(dropout=0.0), list[int]()
    take = HeadFeatures.take

    def counted(self: HeadFeatures, batch: Batch, *args: Any) -> Tensor | None:
        taken.append(len(batch["input_ids"]))
        return take(self, batch, *args)

    monkeypatch.setattr(HeadFeatures, "take", counted)
    run_epochs(make_state(split), make_examples(), 1, solved_head={})
    assert taken == [8, 8, 8] * 2, "solved on, and tried on with dropout"


def first_losses(state: TrainingState, solved: dict[str, Tensor] | None) -> list[float]:
    (done,) = run_epochs(state, make_examples(), 1, solved_head=solved)
    return [step.loss for step in done.steps]


def test_a_solved_head_that_training_would_begin_worse_with_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where eval states hardly differ, what tells them apart is lost in dropout, magnified."""
    caplog.set_level("INFO", "afcore.training.solved_head")

    def solve(layer: nn.Linear, *_: Any) -> float:
        with torch.no_grad():
            layer.weight.mul_(1000.0)
        return 0.1

    monkeypatch.setattr(solved_head, "solve_head", solve)
    found: dict[str, Tensor] = {}
    assert first_losses(make_state(make_split()), found) == first_losses(
        make_state(make_split()), None
    )
    assert "head: begins as it was drawn; under dropout the one that was solved is worse" in (
        caplog.text
    )
    assert set(found) == {"weight", "bias"}, "who has it in common begins as this one did"


def test_training_begins_from_the_solved_head_once() -> None:
    drawn = first_losses(make_state(make_split(dropout=0.0)), None)
    state, found = make_state(make_split(dropout=0.0)), dict[str, Tensor]()
    solved = first_losses(state, found)
    assert solved[0] < drawn[0]

    weight = HeadFeatures(state.split, 3).layer.weight.detach().clone()
    state.freeze = type(state.freeze)(0, rate=0.0)
    first_losses(state, {})  # not before a later step
    assert torch.equal(HeadFeatures(state.split, 3).layer.weight, weight)


def test_a_head_that_was_solved_is_taken_and_trains_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: dict[str, Tensor] = {}
    expected = first_losses(make_state(make_split()), found)
    assert set(found) == {"weight", "bias"}
    monkeypatch.setattr(HeadFeatures, "take", lambda *_: pytest.fail("it is solved again"))
    assert first_losses(make_state(make_split()), found) == expected
