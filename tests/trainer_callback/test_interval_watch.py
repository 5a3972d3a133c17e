"""What is added up of the steps of a Trainer."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from afcore.distributed import ALONE
from afcore.trainer_callback.interval_watch import IntervalWatch
from afcore.training.gradients import clip_gradients
from tests.training_setup import make_split


@pytest.mark.parametrize("is_fp16", [False, True])
def test_a_step_that_is_not_made_is_in_no_sum(is_fp16: bool) -> None:
    split = make_split()
    watch = IntervalWatch(split.model, split, ALONE, adds_up=True)
    watch.begin(4)
    for value in (1.0, math.inf, 0.5, -0.25):
        for parameter in split.model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        watch.add(1e-3, may_be_left_out=is_fp16)
    found = watch.statistics()
    sizes = [sum(p.numel() for p in block.parameters()) for block in split.blocks]
    assert found["num_steps"] == 4
    assert found["second_half_norms"] == pytest.approx([0.25 * size for size in sizes])
    expected = [1.25 * size if is_fp16 else math.inf for size in sizes]
    assert found["gradient_norms"] == pytest.approx(expected)
    assert all(map(math.isfinite, found["sums_of_squares"])) == is_fp16


def test_what_trains_beside_the_model_that_is_split_is_clipped_with_it() -> None:
    """As the prompts that PEFT puts before its input."""
    split = make_split()
    around = nn.Module()
    around.inner, around.prompt = split.model, nn.Parameter(torch.zeros(4))
    watch = IntervalWatch(around, split, ALONE, adds_up=True)
    parameters = list(around.parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    norms = watch.add(1e-3)
    assert float(norms[around.prompt]) == 2.0
    clip_gradients(norms, 0.5)
    clipped = torch.cat([parameter.grad.flatten() for parameter in parameters])
    assert float(clipped.norm()) == pytest.approx(0.5, rel=1e-3)


class _Classifier(nn.Module):
    """Its loss is a mean, or its share of a batch of which it is told how large it is."""

    def __init__(self, gives_shares: bool) -> None:
        super().__init__()
        self.gives_shares = gives_shares
        torch.manual_seed(0)
        self.logits = nn.Parameter(torch.randn(4, 3))

    def forward(self, labels: torch.Tensor, num_items_in_batch: Any = None) -> Any:
        if labels.is_floating_point():
            loss = nn.functional.binary_cross_entropy_with_logits(self.logits, labels)
        elif self.gives_shares and num_items_in_batch is not None:
            loss = nn.functional.cross_entropy(self.logits, labels, reduction="sum")
            loss = loss / num_items_in_batch
        else:
            loss = nn.functional.cross_entropy(self.logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=self.logits)


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize("kind", ["share", "mean", "mean of several labels"])
def test_the_loss_of_a_step_of_two_passes_is_the_mean_over_both(kind: str, is_told: bool) -> None:
    split = make_split()
    model = _Classifier(kind == "share")
    labels = torch.tensor([0, 1, 2, 2])
    batches = [labels, labels.flip(0)]
    if kind == "mean of several labels":
        batches = [nn.functional.one_hot(one, 3).float() for one in batches]
    expected = sum(model(labels=one).loss.item() for one in batches) / 2
    watch = IntervalWatch(model, split, ALONE, adds_up=False)
    for one in batches:
        told = torch.tensor(8) if is_told else None
        model(labels=one, num_items_in_batch=told).loss.backward()
    watch.add(1e-3)
    assert watch.statistics()["train_loss"] == pytest.approx(expected, rel=1e-6)
