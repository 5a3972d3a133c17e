"""Prefix and suffix equal the whole, for BERT-like and GPT-like models built from their configs."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from afcore.errors import ModelError
from afcore.model.checks import unused_parameters, verify_split
from afcore.model.split_model import EMBEDDINGS, HEAD, SplitModel, block_part

H = "hidden_states"
COMMON: dict[str, Any] = {"num_labels": 3, "vocab_size": 64, "pad_token_id": 0}
WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
CONFIGS = {
    "bert": transformers.BertConfig(**WIDE, **COMMON),
    "roberta": transformers.RobertaConfig(**WIDE, **COMMON),
    "distilbert": transformers.DistilBertConfig(
        dim=32, n_layers=4, n_heads=4, hidden_dim=64, **COMMON
    ),
    "electra": transformers.ElectraConfig(embedding_size=16, **WIDE, **COMMON),
    "mpnet": transformers.MPNetConfig(**WIDE, **COMMON),
    "deberta-v2": transformers.DebertaV2Config(
        relative_attention=True, pos_att_type=["p2c", "c2p"], **WIDE, **COMMON
    ),
    "modernbert": transformers.ModernBertConfig(**WIDE, **COMMON),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=4, n_head=4, **COMMON),
    "gpt-neox": transformers.GPTNeoXConfig(**WIDE, **COMMON),
    "llama": transformers.LlamaConfig(num_key_value_heads=2, **WIDE, **COMMON),
    "qwen2-sliding": transformers.Qwen2Config(
        num_key_value_heads=2,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=2,
        **WIDE,
        **COMMON,
    ),
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForSequenceClassification.from_config(
        copy.deepcopy(CONFIGS[name])
    ).eval()


@pytest.fixture(params=list(CONFIGS))
def split(request: pytest.FixtureRequest) -> SplitModel:
    return SplitModel(build(request.param))


def ragged_batch(*lengths: int) -> dict[str, torch.Tensor]:
    """[b, 9]."""
    torch.manual_seed(1)
    ids = torch.randint(3, 64, (len(lengths), 9))
    mask = torch.stack([(torch.arange(9) < length).long() for length in lengths])
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return ragged_batch(9, 5, 3, 9)


def test_suffix_of_prefix_is_the_whole(split: SplitModel, batch: dict[str, torch.Tensor]) -> None:
    whole = split.model(**batch).logits
    for boundary in range(1, split.num_blocks):
        hidden = split.hidden(batch, boundary)
        assert {name: tuple(states.shape) for name, states in hidden.items()} == {H: (4, 9, 32)}
        torch.testing.assert_close(split.logits(batch, boundary, hidden), whole)
        assert verify_split(split, batch, boundary, 1e-5) is None


def test_blocks_can_be_run_in_stages(split: SplitModel, batch: dict[str, torch.Tensor]) -> None:
    one = split.hidden(batch, 1)
    assert torch.equal(split.hidden(batch, 3)[H], split.hidden(batch, 3, 1, one)[H])
    assert split.hidden(batch, 1, 1, one) is one


def test_rounded_blocks_do_not_know_where_the_pass_began(
    split: SplitModel, batch: dict[str, torch.Tensor]
) -> None:
    def rounding(hidden: torch.Tensor) -> torch.Tensor:
        return hidden.bfloat16().float()

    one, two = (split.hidden(batch, stop, rounding=rounding) for stop in (1, 2))
    three = split.hidden(batch, 3, rounding=rounding)[H]
    assert torch.equal(three, rounding(three))
    assert not torch.equal(three, rounding(split.hidden(batch, 3)[H]))
    for start, hidden in ((1, one), (2, two)):
        assert torch.equal(split.hidden(batch, 3, start, hidden, rounding)[H], three)
    plain = split.hidden(batch, 3)[H]
    torch.testing.assert_close(three, plain, atol=0.1, rtol=0.1)
    assert not split.blocks[0]._forward_hooks


def test_the_embeddings_are_not_computed_for_the_suffix(batch: dict[str, torch.Tensor]) -> None:
    split = SplitModel(build("bert"))
    normalized: list[Any] = []
    norm = split.model.bert.embeddings.LayerNorm
    norm.register_forward_hook(lambda _module, _args, output: normalized.append(output))
    hidden = split.hidden(batch, 2)
    assert len(normalized) == 1
    split.logits(batch, 2, hidden)
    split.hidden(batch, 3, 2, hidden)
    assert len(normalized) == 1
    assert "forward" not in vars(split.model.bert.embeddings)


def test_nothing_is_left_changed(split: SplitModel, batch: dict[str, torch.Tensor]) -> None:
    before = split.model(**batch).logits
    split.logits(batch, 2, split.hidden(batch, 2))
    assert torch.equal(split.model(**batch).logits, before)
    for module in split.model.modules():
        assert "forward" not in vars(module)
    for block in split.blocks:
        assert not block._forward_hooks


def test_every_parameter_has_one_part(split: SplitModel) -> None:
    names = {name for name, _ in split.model.named_parameters()}
    parts = {part: set(split.part_parameters(part)) for part in split.parts}
    assert set.union(*parts.values()) == names
    assert sum(map(len, parts.values())) == len(names)
    assert split.parts == [EMBEDDINGS, *(block_part(i) for i in range(4)), HEAD]
    for part in split.parts:
        assert parts[part], part
    assert not any("embed" in name for name in parts[HEAD])


def test_the_prefix_depends_on_frozen_parts_alone(
    split: SplitModel, batch: dict[str, torch.Tensor]
) -> None:
    split.hidden(batch, 2)[H].sum().backward()
    used = {
        split.part_of[name]
        for name, parameter in split.model.named_parameters()
        if parameter.grad is not None
    }
    assert used == set(split.frozen_parts(2))


def test_frozen_parts_neither_train_nor_drop(split: SplitModel) -> None:
    for parameter in split.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    split.set_training(2)
    for name, parameter in split.model.named_parameters():
        frozen = split.part_of[name] in ("embeddings", "block.000", "block.001")
        assert parameter.requires_grad is not frozen
        assert (parameter.grad is None) is frozen
    dropouts = [m.training for m in split.blocks[0].modules()]
    assert not any(dropouts)
    assert all(m.training for m in split.blocks[2].modules())
    split.set_training(0)
    assert all(module.training for module in split.model.modules())


def test_a_frozen_prefix_is_deterministic_in_training(
    split: SplitModel, batch: dict[str, torch.Tensor]
) -> None:
    split.set_training(2)
    assert torch.equal(split.hidden(batch, 2)[H], split.hidden(batch, 2)[H])


class _BatchMean(nn.Module):
    """Mixes the examples of a batch, as batch normalization does."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        output: torch.Tensor = self.block(hidden_states, *args, **kwargs)
        return output + output.mean(0, keepdim=True)


def test_a_prefix_that_mixes_examples_is_found_out(batch: dict[str, torch.Tensor]) -> None:
    model = build("bert")
    layers = model.bert.encoder.layer
    model.bert.encoder.layer = nn.ModuleList([_BatchMean(layer) for layer in layers])
    reason = verify_split(SplitModel(model), batch, 2, 1e-4)
    assert reason is not None
    assert "depend on the other examples" in reason


def _unsplittable() -> Iterator[tuple[str, Any, str]]:
    albert = transformers.AlbertConfig(embedding_size=16, **WIDE, **COMMON)
    yield "albert", albert, "no row of transformer blocks"


@pytest.mark.parametrize(
    ("config", "message"), [pytest.param(c, m, id=n) for n, c, m in _unsplittable()]
)
def test_models_without_a_row_of_blocks(config: Any, message: str) -> None:
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(ModelError, match=message):
        SplitModel(model)


def test_blocks_that_share_weights_are_refused() -> None:
    model = build("bert")
    layers = model.bert.encoder.layer
    layers[2].output.dense.weight = layers[0].output.dense.weight
    with pytest.raises(ModelError, match=r"block.000 and block.002 share weights"):
        SplitModel(model)


def test_every_parameter_that_trains_gets_a_gradient(
    split: SplitModel, batch: dict[str, torch.Tensor]
) -> None:
    split.set_training(0)
    assert unused_parameters(split, batch) == []
    split.model.register_parameter("spare", nn.Parameter(torch.zeros(1)))
    assert unused_parameters(split, batch) == ["spare"]
    assert all(parameter.grad is None for parameter in split.model.parameters())
