"""Adapters: what PEFT makes of the same configuration, and parts like others to everybody else."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model

from afcore.activations.feed import HiddenFeed
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.errors import ConfigError
from afcore.model.adapters import (
    LoraSettings,
    adapted_blocks,
    add_adapters,
    merge_adapters,
    save_adapters,
)
from afcore.model.checks import verify_pooled, verify_split
from afcore.model.split_model import SplitModel
from afcore.storage.objects import Storage
from afcore.training.gradients import clip_gradients, norms_of_gradients
from afcore.training.schedule import Schedule
from tests.training_setup import (
    CPU_FP32,
    NUM_BLOCKS,
    TASK,
    grouped_batches,
    make_examples,
    make_split,
    make_state,
    make_trainee,
    new_set,
    run_epochs,
    scripted,
)

LORA = LoraSettings(rank=2, alpha=4)
BATCH = {
    "input_ids": torch.tensor([[2, 9, 11, 30, 3], [2, 17, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
FAMILIES: dict[str, Any] = {
    "bert": lambda: make_split(dropout=0.0).model,
    "gpt2": lambda: transformers.GPT2ForSequenceClassification(
        transformers.GPT2Config(
            vocab_size=64, n_embd=32, n_layer=3, n_head=4, num_labels=3, pad_token_id=0
        )
    ),
    "llama": lambda: transformers.LlamaForSequenceClassification(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            num_labels=3,
            pad_token_id=0,
        )
    ),
    "distilbert": lambda: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(
            vocab_size=64, dim=32, hidden_dim=48, n_layers=3, n_heads=4, num_labels=3
        )
    ),
}


def adapted(first: int = 0, dropout: float = 0.0, **settings: Any) -> SplitModel:
    split = make_split(dropout=dropout)
    made = LoraSettings(**{"rank": 2, "alpha": 4} | settings)
    return add_adapters(split, made, range(first, NUM_BLOCKS), seed=0)


def stir(split: SplitModel) -> SplitModel:
    """As if trained: what adapters add is no longer nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in split.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return split


def logits(split: SplitModel, **given: Any) -> torch.Tensor:
    split.model.eval()
    with torch.no_grad():
        return split.logits(BATCH, **given)


def test_an_adapter_changes_nothing_until_it_is_trained_and_draws_the_same_whenever() -> None:
    plain, split = make_split(), adapted()
    torch.testing.assert_close(logits(split), logits(plain), rtol=1e-6, atol=1e-7)
    later = add_adapters(adapted(2), LORA, range(NUM_BLOCKS), seed=0)
    assert adapted_blocks(later) == [0, 1, 2, 3]
    state = later.model.state_dict()
    for name, tensor in split.model.state_dict().items():
        assert torch.equal(tensor, state[name])
    other = add_adapters(make_split(), LORA, range(NUM_BLOCKS), seed=1)
    drawn = [name for name in state if "lora_A" in name]
    assert len(drawn) == 6 * NUM_BLOCKS
    assert not any(torch.equal(state[name], other.model.state_dict()[name]) for name in drawn)


def test_adapters_and_head_train_and_the_base_does_not() -> None:
    split = adapted(1)
    base = {part: split.part_tensors(part) for part in split.base_parts}
    before = {part: {n: t.clone() for n, t in tensors.items()} for part, tensors in base.items()}
    assert [*before] == ["embeddings", *(f"block.{i:03d}" for i in range(NUM_BLOCKS))]
    assert before["block.002"].keys() == make_split().part_tensors("block.002").keys()
    assert split.frozen_parts(2) == ["embeddings", "block.000", "block.001", "adapter.block.001"]
    state = make_state(split, 1)
    run_epochs(state, make_examples(), 2, scripted([1, 2, 2, 3]))
    trained = {name.rpartition("/")[0] for name in state.optimizer.moments()}
    assert {split.part_of[name] for name in trained} == {"adapter.block.003", "head"}
    for part, tensors in before.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, split.part_tensors(part)[name])
    moved = [p for n, p in split.model.named_parameters() if "lora_B" in n and bool(p.any())]
    assert len(moved) == 6 * 3, "those of blocks 1 and 2 too, before they froze"
    assert all(p.grad is None for p in split.part_parameters("adapter.block.001").values())


def test_training_is_that_of_a_bare_loop_with_peft() -> None:
    examples, split = make_examples(), adapted()
    config = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules=r".*encoder\.layer.*(query|key|value|dense)",
        modules_to_save=["pooler", "classifier"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT asks Transformers by old names
        bare = get_peft_model(make_split(dropout=0.0).model, config)
    drawn = split.model.state_dict()
    with torch.no_grad():
        for name, parameter in bare.base_model.model.named_parameters():
            if "lora_A" in name:
                parameter.copy_(drawn[name])
    bare.train()
    trained = [p for p in bare.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    losses = []
    for ids in grouped_batches(examples, 1):
        batch, targets = TASK.collate(examples, ids, CPU_FP32.device)
        loss = bare(**batch, **targets).loss
        loss.backward()
        clip_gradients(norms_of_gradients(trained), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    state = make_state(split)
    for group in state.optimizer._adamw.param_groups:
        group["weight_decay"] = 0.0
    (done,) = run_epochs(state, examples, 1, schedule=Schedule(1, len(losses), "constant"))
    assert [step.loss for step in done.steps] == pytest.approx(losses, rel=1e-4)
    assert len(state.optimizer.parameters) == len(trained)


def test_a_set_gives_what_computing_gives_when_the_prefix_has_trained_adapters(
    local_storage: Storage,
) -> None:
    examples, script = make_examples(), [1, 2, 2, 2, 3, 3]
    computing = make_state(adapted(1, dropout=0.1), 1)
    plain = run_epochs(computing, examples, 3, scripted(script), dtype="fp32")
    reading = make_state(adapted(1, dropout=0.1), 1)

    def feed(epoch: int, state: Any) -> Any:
        runner = PrefixRunner(make_trainee(state.split, examples, dtype="fp32"))
        new = new_set(f"activations/{epoch}", [state.freeze.boundary])
        return HiddenFeed(materialize(local_storage, new, runner), runner)

    cached = run_epochs(reading, examples, 3, scripted(script), feed=feed, dtype="fp32")
    assert all(epoch.activation_bytes_read for epoch in cached)
    for one, other in zip(cached, plain, strict=True):
        assert [s.loss for s in one.steps] == pytest.approx([s.loss for s in other.steps], 1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_split_pooled_merged_and_saved_with_adapters(
    family: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = FAMILIES[family]().eval()
    base.save_pretrained(tmp_path / "base")
    found = SplitModel(base)
    split = stir(add_adapters(found, LORA, range(1, found.num_blocks), seed=0))
    assert adapted_blocks(split) == [*range(1, found.num_blocks)]
    assert split.pooled is not None
    assert verify_split(split, BATCH, 2, 1e-5) is None
    verify_pooled(split, BATCH, 1e-5)
    with torch.no_grad():
        for parameter in split.part_parameters("head").values():
            parameter.add_(0.1)
    wanted = logits(split)
    save_adapters(split, LORA, str(tmp_path / "base"), tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    merged = merge_adapters(split)
    assert adapted_blocks(merged) == []
    assert merged.model.state_dict().keys() == FAMILIES[family]().state_dict().keys()
    torch.testing.assert_close(logits(merged), wanted, rtol=1e-5, atol=1e-5)

    fresh = type(base).from_pretrained(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**BATCH).logits, wanted, rtol=1e-5, atol=1e-6)


def test_layers_can_be_named() -> None:
    split = adapted(target_modules=["query", "attention.output.dense"])
    names = {name for name in split.part_parameters("adapter.block.000") if "lora_A" in name}
    start = "bert.encoder.layer.0.attention."
    assert names == {
        f"{start}self.query.lora_A.default.weight",
        f"{start}output.dense.lora_A.default.weight",
    }
    with pytest.raises(ConfigError, match=r"no such linear layer; it has dense, key, query, value"):
        adapted(target_modules=["q_proj"])
    with pytest.raises(ConfigError, match=r"adapter\.target_modules: 'vlaue': .* no such linear"):
        adapted(target_modules=["query", "vlaue"])


def test_without_peft_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"adapter needs the package peft: pip install"):
        adapted()
