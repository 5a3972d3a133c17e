"""A last block at one position gives the outputs and the gradients of the whole model."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from afcore.errors import ModelError
from afcore.model.checks import verify_pooled
from afcore.model.find_pooling import find_pooling
from afcore.model.pooled_block import PooledBlock
from afcore.model.probing import probing_batch
from afcore.model.split_model import SplitModel
from tests.model.test_split_model import CONFIGS, build, ragged_batch

NO_KERNEL = "its attention is eager"
POSITIONS = {
    "bert": "first",
    "roberta": "first",
    "electra": "first",
    "distilbert": "first",
    "mpnet": NO_KERNEL,
    "deberta-v2": NO_KERNEL,
    "modernbert": "first",
    "gpt2": "last but padding",
    "gpt-neox": "last but padding",
    "llama": "last but padding",
    "qwen2-sliding": "last but padding",
}
POOLED = [name for name, position in POSITIONS.items() if position != NO_KERNEL]
WITHOUT_KEYS = {"bert", "roberta", "electra", "distilbert"}


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Ragged; the last example's last word has the padding's id."""
    batch = ragged_batch(9, 5, 1, 9)
    batch["input_ids"][3, 8] = 0
    return batch


def test_what_is_known_of_each_architecture() -> None:
    assert {name: SplitModel(build(name)).pooled_reason for name in CONFIGS} == POSITIONS


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("boundary", [0, 3])
@pytest.mark.parametrize("with_keys", [False, True])
def test_outputs_and_gradients_are_those_of_the_whole(
    name: str, boundary: int, with_keys: bool, batch: dict[str, torch.Tensor]
) -> None:
    whole, pooled = (SplitModel(build(name), pool=pool) for pool in (False, True))
    assert whole.pooled is None
    assert pooled.pooled is not None
    assert (pooled.pooled.pooling.projections is not None) == (name in WITHOUT_KEYS)
    if with_keys:
        keyed = dataclasses.replace(pooled.pooled.pooling, projections=None)
        pooled.pooled = PooledBlock(pooled.blocks[-1], keyed)
    found = []
    for split in (whole, pooled):
        split.set_training(boundary)
        split.model.eval()
        hidden = None
        if boundary:
            hidden = {name: h.detach() for name, h in split.hidden(batch, boundary).items()}
        logits = split.logits(batch, boundary, hidden)
        logits.square().sum().backward()
        named = split.model.named_parameters()
        found.append((logits, {name: p.grad for name, p in named if p.requires_grad}))
    (expected, gradients), (logits, ours) = found
    torch.testing.assert_close(logits, expected)
    assert gradients
    assert None not in ours.values()
    torch.testing.assert_close(ours, gradients, atol=1e-5, rtol=1e-4)


def test_all_but_keys_and_values_is_computed_at_one_position(
    batch: dict[str, torch.Tensor],
) -> None:
    split = SplitModel(build("bert"))
    rows: dict[str, list[int]] = {"below": [], "last": [], "pooler": []}
    modules = (
        split.blocks[-2].intermediate,
        split.blocks[-1].intermediate,
        split.model.bert.pooler,
    )
    for name, module in zip(rows, modules, strict=True):
        module.register_forward_hook(
            lambda _module, given, _output, name=name: rows[name].append(given[0].shape[1])
        )
    split.logits(batch)
    assert rows == {"below": [9], "last": [1], "pooler": [1]}
    assert split.pooled is not None
    pooling = split.pooled.pooling
    assert pooling.idle_first == ("attention.self.query",)
    assert pooling.idle_second == ("attention.self.key", "attention.self.value")
    assert pooling.projections == ("attention.self.key", "attention.self.value")


@pytest.mark.parametrize("name", [n for n in POOLED if POSITIONS[n] != "first"])
def test_nothing_after_the_position_is_seen_without_padding(name: str) -> None:
    split = SplitModel(build(name))
    batch = ragged_batch(9, 9)
    batch["input_ids"][1, 6:] = 0  # three words that have the padding's id
    torch.testing.assert_close(split.logits(batch), split.model(**batch).logits)


def test_dropout_is_drawn(batch: dict[str, torch.Tensor]) -> None:
    split = SplitModel(build("bert"))
    split.set_training(3)
    hidden = split.hidden(batch, 3)
    one, other = (split.logits(batch, 3, hidden) for _ in range(2))
    assert not torch.equal(one, other)


class _MeanPooler(nn.Module):
    def __init__(self, pooler: nn.Module) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.pooler(hidden.mean(1, keepdim=True))
        return pooled


def test_a_head_that_reads_every_position_gets_every_position(
    batch: dict[str, torch.Tensor],
) -> None:
    model = build("bert")
    model.bert.pooler = _MeanPooler(model.bert.pooler)
    split = SplitModel(model)
    assert split.pooled is None
    assert split.pooled_reason == "its head reads more than one position"
    assert torch.equal(split.logits(batch), model(**batch).logits)


def _other_kernel(model: Any) -> None:
    model.config._attn_implementation = "flex_attention"


def _no_padding(model: Any) -> None:
    model.config.pad_token_id = None


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_other_kernel, "its attention is flex_attention"), (_no_padding, "it has no padding token")],
)
def test_what_cannot_be_known_is_run_whole(change: Any, reason: str) -> None:
    model = build("gpt2")
    whole = SplitModel(model, pool=False)
    change(model)
    batch = probing_batch(model)
    assert find_pooling(model, whole.blocks[-1], lambda hidden: hidden, batch) == (None, reason)


def test_a_head_that_turns_out_to_read_elsewhere_is_refused(
    batch: dict[str, torch.Tensor],
) -> None:
    split = SplitModel(build("gpt2"))
    verify_pooled(split, batch, 1e-4)
    assert split.pooled is not None
    elsewhere = dataclasses.replace(split.pooled.pooling, position="last")
    split.pooled = PooledBlock(split.blocks[-1], elsewhere)
    with pytest.raises(ModelError, match=r"Set training\.pooled_last_block to false"):
        verify_pooled(split, batch, 1e-4)
