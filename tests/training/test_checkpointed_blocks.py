"""Blocks that are computed again on the way back: the same numbers, and less is kept."""

from typing import Any

import pytest
import torch
import transformers

from afcore.config import Config, parse_config
from afcore.errors import ConfigError
from afcore.planning.choose_workers import MemoryModel, activation_bytes
from afcore.runs.identify import identify_run
from afcore.storage.objects import Storage
from tests.tasks.test_each_task import losses, train
from tests.training_setup import make_split


@pytest.fixture
def config(tiny_config: dict[str, Any]) -> Config:
    tiny_config["training"] |= {"epochs": 2, "stop": "never"}
    tiny_config["freezing"] = {"policy": "static", "depth": 2}
    return parse_config(tiny_config, source="test")


@pytest.mark.parametrize("mode", ["full", "freeze", "cached"])
def test_the_same_numbers(config: Config, mode: str) -> None:
    """With dropout, which is drawn again as it was."""
    plain = losses(train(config.replace(mode=mode)))
    changed = config.replace(**{"mode": mode, "training.gradient_checkpointing": True})
    assert losses(train(changed)) == pytest.approx(plain, rel=1e-5)
    passes = changed.replace(**{"workers.micro_batch": 3})
    accumulated = losses(train(passes.replace(**{"training.gradient_checkpointing": False})))
    assert losses(train(passes)) == pytest.approx(accumulated, rel=1e-5)


def test_blocks_that_train_keep_less() -> None:
    split = make_split()
    batch = {"input_ids": torch.randint(5, 50, (4, 24)), "attention_mask": torch.ones(4, 24).long()}
    kept = {}
    for wanted in (False, True, False):
        split.checkpoint_blocks(wanted)
        split.set_training(0)
        size = 0

        def note(values: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += values.nbytes
            return values

        with torch.autograd.graph.saved_tensors_hooks(note, lambda values: values):
            split.logits(batch)
        kept.setdefault(wanted, []).append(size)
    assert kept[True][0] < 0.5 * kept[False][0]
    assert kept[False][0] == kept[False][1], "it can be turned off again"


def test_a_model_that_cannot_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        transformers.BertForSequenceClassification, "supports_gradient_checkpointing", False
    )
    changed = config.replace(**{"training.gradient_checkpointing": True})
    with pytest.raises(ConfigError, match="cannot do it with BertForSequenceClassification"):
        identify_run(changed, Storage(config.store))


def test_memory_is_that_of_the_inputs_and_of_one_block() -> None:
    """Twelve blocks of width 768, 6 examples of 512 tokens; by hand."""
    block = activation_bytes(768, 0, 512)
    sizes = [7_000_000 * (12 - boundary) for boundary in range(12)]
    facts = {"limit_bytes": 10**12, "example_tokens": 512}
    plain = MemoryModel(**facts, block_token_bytes=block)
    again = MemoryModel(**facts, block_token_bytes=2.0 * 768, again_token_bytes=block)
    tokens = 6 * 512
    fixed = plain.needed_bytes(sizes, 4, 0)
    assert plain.needed_bytes(sizes, 4, tokens) - fixed == 8 * 34 * 768 * tokens
    assert again.needed_bytes(sizes, 4, tokens) - fixed == (8 * 2 + 34) * 768 * tokens
