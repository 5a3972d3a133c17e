"""Models that are no row of BERT's blocks: split, run, stored in a set and read back."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from afcore.activations.codec import RowFormat
from afcore.activations.feed import HiddenFeed
from afcore.activations.materialize import PrefixRunner, materialize
from afcore.activations.sets import open_set
from afcore.errors import ModelError
from afcore.model.checks import verify_pooled, verify_split
from afcore.model.split_model import HEAD, SplitModel
from afcore.model.stacks import ModelStructure
from afcore.storage.objects import Storage
from afcore.trainee import Trainee
from tests.training_setup import CPU_FP32, new_set

Batch = Mapping[str, Tensor]
COUNT, NUM_BLOCKS, H = 12, 4, "hidden_states"
T5: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": NUM_BLOCKS,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_labels": 3,
    "decoder_start_token_id": 0,
}
BART: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": NUM_BLOCKS,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_labels": 3,
}


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=8,
        patch_size=4,
        num_labels=3,
    )
    return transformers.ViTForImageClassification(config)


def clip() -> Any:
    """Its configuration has one of text inside, and one of images."""
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": NUM_BLOCKS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    words = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    images = {"image_size": 8, "patch_size": 4}
    config = transformers.CLIPConfig(
        text_config=sizes | words, vision_config=sizes | images, num_labels=3
    )
    return transformers.CLIPForImageClassification(config)


def wav2vec2(**settings: Any) -> Any:
    """Draws nothing but dropout, and its convolutions look at no padding, unless told to."""
    given: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": NUM_BLOCKS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "conv_dim": (8, 8),
        "conv_kernel": (10, 3),
        "conv_stride": (5, 2),
        "num_feat_extract_layers": 2,
        "feat_extract_norm": "layer",
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "classifier_proj_size": 16,
        "layerdrop": 0.0,
        "apply_spec_augment": False,
        "num_labels": 3,
    }
    config = transformers.Wav2Vec2Config(**given | settings)
    return transformers.Wav2Vec2ForSequenceClassification(config)


def lilt() -> Any:
    """Its blocks hand on a second row at every position, of where the words stand."""
    config = transformers.LiltConfig(
        hidden_size=48,
        num_hidden_layers=NUM_BLOCKS,
        num_attention_heads=4,
        intermediate_size=64,
        channel_shrink_ratio=2,
        max_2d_position_embeddings=64,
        vocab_size=64,
        num_labels=3,
    )
    return transformers.LiltForSequenceClassification(config)


def udop() -> Any:
    """Its bias, of where the words stand, is made before block 0, and each block hands it on."""
    config = transformers.UdopConfig(image_size=16, patch_size=4, **T5)
    return transformers.UdopForConditionalGeneration(config)


MODELS: dict[str, Callable[[], Any]] = {
    "t5": lambda: transformers.T5ForSequenceClassification(transformers.T5Config(**T5)),
    "t5-generation": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)),
    "t5-encoder": lambda: transformers.T5ForTokenClassification(transformers.T5Config(**T5)),
    "bart": lambda: transformers.BartForSequenceClassification(transformers.BartConfig(**BART)),
    "vit": vit,
    "clip": clip,
    "wav2vec2": wav2vec2,
    "lilt": lilt,
    "udop": udop,
}
WIDTHS = {name: {H: 32} for name in MODELS} | {"lilt": {H: 48, "layout_inputs": 24}}


def build(name: str) -> Any:
    torch.manual_seed(0)
    return MODELS[name]().eval()


def columns(name: str) -> tuple[dict[str, Tensor], np.ndarray]:
    """What the model gets of all examples, and the rows of each at a boundary."""
    torch.manual_seed(1)
    if name in ("vit", "clip"):
        return {"pixel_values": torch.randn(COUNT, 3, 8, 8)}, np.full(COUNT, 5)
    if name == "wav2vec2":
        samples = torch.randint(40, 120, (COUNT,))
        mask = (torch.arange(120) < samples[:, None]).long()
        frames = ((samples - 10) // 5 + 1 - 3) // 2 + 1
        return {
            "input_values": torch.randn(COUNT, 120) * mask,
            "attention_mask": mask,
        }, frames.numpy()
    lengths = torch.randint(2, 12, (COUNT,))
    ids = torch.randint(3, 64, (COUNT, 12))
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids[torch.arange(COUNT), lengths - 1] = 2 if name == "bart" else 1  # each ends in one </s>
    given = {"input_ids": ids * mask + (1 - mask) * (name == "bart"), "attention_mask": mask}
    if name in ("lilt", "udop"):
        corners = torch.randint(0, 30, (COUNT, 12, 2))
        boxes = torch.cat([corners, corners + torch.randint(1, 30, (COUNT, 12, 2))], -1)
        given["bbox"] = boxes if name == "lilt" else boxes / 60
    if name in ("t5-generation", "udop"):
        given["decoder_input_ids"] = torch.randint(3, 64, (COUNT, 4))
    return given, lengths.numpy()


@dataclass(frozen=True)
class OneColumnTask:
    """Gives batches of columns, cut to their longest example."""

    given: Mapping[str, Tensor]

    def collate(self, examples: Any, ids: np.ndarray, device: Any) -> tuple[Batch, Tensor]:
        at = torch.from_numpy(ids)
        batch = {key: values[at] for key, values in self.given.items()}
        if "attention_mask" in batch:
            longest = int(batch["attention_mask"].sum(1).max())
            for key in batch.keys() & {"input_ids", "input_values", "attention_mask", "bbox"}:
                batch[key] = batch[key][:, :longest]
        return batch, torch.zeros(len(ids))


def prefix_runner(split: SplitModel, given: dict[str, Tensor], lengths: np.ndarray) -> PrefixRunner:
    task: Any = OneColumnTask(given)
    digests = np.arange(2 * len(lengths), dtype=np.uint64).reshape(-1, 2)
    examples: Any = SimpleNamespace(lengths=lengths, example_digests=digests)
    return PrefixRunner(Trainee(split, task, examples, CPU_FP32, "fp32"))


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("boundary", [1, 3])
def test_the_suffix_of_a_set_read_back_is_the_whole(
    name: str, boundary: int, local_storage: Storage
) -> None:
    """Outputs, loss and gradients: of the whole, and of the suffix on what a store gave back."""
    given, lengths = columns(name)
    split = SplitModel(build(name))
    runner = prefix_runner(split, given, lengths)
    made = materialize(local_storage, new_set("activations/a", [boundary]), runner)
    assert made.verify() == []
    found = open_set(local_storage, "activations/a")
    assert found is not None
    assert found.manifest.format == RowFormat("fp32", WIDTHS[name])
    ids = np.asarray([3, 0, 7, 11])
    hidden = HiddenFeed(found, runner).batch(ids)
    batch = runner.trainee.inputs(ids)
    split.set_training(boundary)
    split.model.eval()
    results = []
    for logits in (split.model(**batch).logits, split.logits(batch, boundary, hidden)):
        split.model.zero_grad(set_to_none=True)
        if logits.ndim == 3 and logits.shape[:2] == batch["attention_mask"].shape:
            logits = logits * batch["attention_mask"][..., None]  # nobody reads a padding's label
        loss = logits.square().mean()
        loss.backward()
        named = split.model.named_parameters()
        gradients = {key: p.grad for key, p in named if p.requires_grad and p.grad is not None}
        results.append((logits.detach(), loss.detach(), gradients))
    (expected, its_loss, its_gradients), (ours, our_loss, our_gradients) = results
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_loss, its_loss)
    assert len(its_gradients) > 10
    torch.testing.assert_close(our_gradients, its_gradients, atol=1e-5, rtol=1e-4)
    assert not {split.part_of[key] for key in our_gradients} & set(split.frozen_parts(boundary))


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_verified_before_training_holds(name: str) -> None:
    given, _ = columns(name)
    split = SplitModel(build(name))
    assert split.num_blocks == NUM_BLOCKS
    for boundary in range(1, NUM_BLOCKS):
        assert verify_split(split, given, boundary, 1e-5) is None
    verify_pooled(split, given, 1e-5)


@pytest.mark.parametrize("name", list(MODELS))
def test_blocks_of_weights_in_half_precision_are_found(name: str) -> None:
    """As a Trainer may train them; convolutions of sound take no other numbers than theirs."""
    split = SplitModel(build(name).to(torch.bfloat16), pool=False)
    assert split.num_blocks == NUM_BLOCKS


def test_blocks_are_those_of_the_encoder_and_the_decoder_is_head() -> None:
    split = SplitModel(build("t5"))
    names = [name for name, part in split.part_of.items() if part == HEAD]
    assert any(name.startswith("transformer.decoder.block.1.") for name in names)
    assert split.structure.stack.blocks[0] == "transformer.encoder.block.0"
    assert split.pooled_reason == "its decoder reads every position"
    assert SplitModel(build("vit")).pooled_reason == "first"


@pytest.mark.parametrize("name", ["t5", "t5-encoder"])
def test_the_bias_of_positions_is_made_anew_from_one_example(name: str) -> None:
    """transformers issue 13397: without it, the blocks above meet no positions at all."""
    given, _ = columns(name)
    split = SplitModel(build(name))
    stack = split.structure.stack
    assert dict(stack.outputs) == {H: 0, "position_bias": 1}
    assert dict(stack.widths) == {H: 32}
    counts: list[int] = []
    layer = split.blocks[0].layer[0].SelfAttention.q
    hidden = split.hidden(given, 2)
    layer.register_forward_pre_hook(lambda _layer, args: counts.append(len(args[0])))
    whole = split.model(**given).logits
    torch.testing.assert_close(split.logits(given, 2, hidden), whole, atol=1e-5, rtol=1e-5)
    assert counts == [COUNT, 1]
    without = replace(stack, outputs={H: 0})
    blind = SplitModel(split.model, structure=ModelStructure(without, None, "turned off"))
    with pytest.raises(ModelError, match=r"T5For.* cannot be split: prefix and suffix"):
        verify_split(blind, given, 2, 1e-4)


def test_a_bias_that_each_block_is_given_is_that_of_all_examples() -> None:
    """UDOP's, which depends on the boxes; these are added to the words' embeddings in place."""
    given, _ = columns("udop")
    split = SplitModel(build("udop"))
    stack = split.structure.stack
    assert dict(stack.outputs) == {H: 0, "position_bias": 1}
    assert (stack.remade_from_all, stack.entry, stack.unsplittable) == (True, None, None)
    hidden = split.hidden(given, 2)
    before = hidden[H].clone()
    split.logits(given, 2, hidden)
    assert torch.equal(hidden[H], before)
    relative = [name for name in split.part_of if name.startswith("encoder.relative_bias.")]
    assert relative
    assert {split.part_of[name] for name in relative} <= set(split.frozen_parts(1))


def test_blocks_of_sound_are_those_above_the_convolutions() -> None:
    """Which are a chain of like modules too."""
    split = SplitModel(build("wav2vec2"))
    assert split.structure.stack.blocks[0] == "wav2vec2.encoder.layers.0"
    assert split.pooled_reason == "its head reads more than one position"
    below = split.part_parameters("embeddings")
    assert "wav2vec2.feature_extractor.conv_layers.0.conv.weight" in below


@pytest.mark.parametrize(
    "settings",
    [
        {"layerdrop": 0.5},
        {"apply_spec_augment": True, "mask_time_prob": 0.9, "mask_time_length": 2},
    ],
)
def test_nothing_is_drawn_below_a_boundary(settings: dict[str, Any]) -> None:
    """Blocks are skipped, and what they get is masked, by the modules that hold them."""
    torch.manual_seed(0)
    split = SplitModel(wav2vec2(**settings))
    given, _ = columns("wav2vec2")
    split.model.train()
    found = [split.hidden(given, 2)[H] for _ in range(8)]
    assert split.model.wav2vec2.encoder.training
    split.model.eval()
    expected = split.hidden(given, 2)[H]
    assert all(torch.equal(states, expected) for states in found)


def test_sound_that_is_normed_with_its_padding_is_not_cached() -> None:
    given, _ = columns("wav2vec2")
    split = SplitModel(wav2vec2(feat_extract_norm="group").eval())
    reason = verify_split(split, given, 2, 1e-5)
    assert reason is not None
    assert "depend on the other examples of its batch" in reason


@pytest.mark.parametrize(("number", "call"), [(0, 1), (3, 3)], ids=["prefix", "suffix"])
def test_a_model_whose_own_code_fails_when_split_is_refused(number: int, call: int) -> None:
    """Run are the prefix, the whole, and the suffix."""
    given, _ = columns("vit")
    split = SplitModel(build("vit"))
    calls: list[Any] = []

    def fail(_block: nn.Module, args: Any) -> None:
        calls.append(args)
        if len(calls) == call:
            raise RuntimeError("such a shape is not for me")

    split.blocks[number].register_forward_pre_hook(fail)
    pattern = r"ViTFor.* run apart at boundary 2, its own code fails: such a shape is not for me"
    with pytest.raises(ModelError, match=pattern):
        verify_split(split, given, 2, 1e-5)


def test_a_model_that_cannot_take_an_example_alone_is_not_cached() -> None:
    given, _ = columns("vit")
    split = SplitModel(build("vit"))

    def fail(_block: nn.Module, args: Any) -> None:
        if len(args[0]) == 1:
            raise RuntimeError("one is too few")

    split.blocks[0].register_forward_pre_hook(fail)
    reason = verify_split(split, given, 2, 1e-5)
    assert reason == "an example without padding, alone in its batch, cannot be run: one is too few"


def test_dropout_of_the_encoders_end_is_drawn_above_a_boundary() -> None:
    """T5 drops out what enters its blocks and what leaves them by one module."""
    split = SplitModel(build("t5"))
    split.set_training(2)
    assert split.model.transformer.encoder.dropout.training
    given, _ = columns("t5")
    one, other = (split.hidden(given, 2)[H] for _ in range(2))
    assert torch.equal(one, other)


class _ValueBlock(nn.Module):
    """Hands on what the first block made of its input, a row at every position."""

    def __init__(self, number: int, of_shape: bool) -> None:
        super().__init__()
        self.mix, self.number, self.of_shape = nn.Linear(8, 8), number, of_shape
        self.value = nn.Linear(8, 6)
        self.back = nn.Linear(6, 8)

    def forward(self, x: Tensor, first_value: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if first_value is None:
            first_value = self.value(x)
        read = self.back(first_value if first_value.ndim == 3 else first_value[:, 0])
        if self.of_shape and first_value.ndim == 3:
            first_value = first_value[:, None]
        return x + torch.tanh(self.mix(x)) + read, first_value


class _Body(nn.Module):
    def __init__(self, of_shape: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        self.blocks = nn.ModuleList([_ValueBlock(i, of_shape) for i in range(NUM_BLOCKS)])

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        states, value = self.embed(input_ids), None
        for block in self.blocks:
            states, value = block(states, value)
        return BaseModelOutput(last_hidden_state=states)


class _WithValues(nn.Module):
    """A model with residual values (arXiv 2410.17897): what block 0 makes, all blocks read."""

    main_input_name = "input_ids"

    def __init__(self, of_shape: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(_attn_implementation="sdpa", pad_token_id=0)
        self.base_model = _Body(of_shape)
        self.score = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        states = self.base_model(input_ids).last_hidden_state
        mean = (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.score(mean))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_tensors_that_are_handed_on_are_stored_beside_the_hidden_states(
    dtype: Any, local_storage: Storage
) -> None:
    given, lengths = columns("other")
    split = SplitModel(_WithValues().eval())
    assert dict(split.widths) == {H: 8, "first_value": 6}
    assert verify_split(split, given, 2, 1e-5) is None
    runner = PrefixRunner(replace(prefix_runner(split, given, lengths).trainee, dtype=dtype))
    lower = materialize(local_storage, new_set("activations/1", [1]), runner)
    made = materialize(local_storage, new_set("activations/2", [1, 2]), runner, lower)
    assert made.manifest.hidden_size == 14
    ids = np.asarray([3, 0, 7])
    hidden = HiddenFeed(made, runner).batch(ids)
    assert {name: states.shape[-1] for name, states in hidden.items()} == dict(split.widths)
    batch = runner.trainee.inputs(ids)
    with torch.no_grad():
        ours, whole = split.logits(batch, 2, hidden), split.model(**batch).logits
    tolerance = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.05}[dtype]
    torch.testing.assert_close(ours, whole, atol=tolerance, rtol=tolerance)


def test_what_has_no_row_at_every_position_is_refused_with_the_reason() -> None:
    given, _ = columns("other")
    split = SplitModel(_WithValues(of_shape=True).eval())
    assert torch.equal(split.logits(given), split.model(**given).logits), "as mode full runs it"
    reason = r"cannot be split: its blocks hand on first_value \[2, 1, 4, 6\], which has no row"
    with pytest.raises(ModelError, match=reason):
        verify_split(split, given, 2, 1e-5)


def test_a_model_that_cannot_be_tried_says_so() -> None:
    model = build("vit")
    model.main_input_name = "input_values"
    with pytest.raises(ModelError, match=r"takes input_values, of which none can be made up"):
        SplitModel(model)
    with pytest.raises(ModelError, match=r"cannot be run on a batch of sound"):
        SplitModel(model, batch={"sound": torch.zeros(2, 4)})


def test_what_was_found_is_read_and_not_tried_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A borderline block would be pooled in one epoch and not in the next."""
    found = SplitModel(build("vit"))
    assert found.pooled is not None
    monkeypatch.setattr("afcore.model.find_pooling._TOLERANCE", -1.0)
    assert SplitModel(build("vit")).pooled is None
    monkeypatch.setattr("afcore.model.split_model.find_pooling", find_pooling_never)
    again = SplitModel(build("vit"), structure=copy.deepcopy(found.structure))
    assert again.structure == found.structure
    assert again.pooled is not None
    assert again.part_of == found.part_of


def find_pooling_never(*_: Any) -> Any:
    raise AssertionError("tried anew")
