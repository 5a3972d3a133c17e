"""Blocks with weights in few bits: what they put out, whom it depends on, how they come back."""

import importlib.util
import sys
from typing import Any, get_args

import pytest
import torch

from afcore.errors import ConfigError
from afcore.measuring.step_seconds import measure_steps
from afcore.model.quantization import (
    Quantization,
    check_quantization,
    place_model,
    quantized_blocks,
)
from afcore.model.split_model import SplitModel
from afcore.runs.checkpoint import weight_digests
from afcore.training.steps import StepSettings
from tests.model import test_families, test_split_model
from tests.training_setup import grouped_batches, make_examples, make_split, make_trainee

KINDS: tuple[Quantization, ...] = get_args(Quantization)
ERRORS = {"8bit": (1e-5, 0.02), "4bit": (0.001, 0.3)}  # relative to the hidden states: from, to
CPU = torch.device("cpu")
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def hidden(split: SplitModel, batch: dict[str, torch.Tensor], boundary: int = 2) -> torch.Tensor:
    split.model.eval()
    with torch.no_grad():
        return split.hidden(batch, boundary)["hidden_states"]


def built(name: str) -> tuple[SplitModel, dict[str, torch.Tensor]]:
    """A model of four blocks, and a batch of several lengths."""
    if name in test_split_model.CONFIGS:
        return SplitModel(test_split_model.build(name)), test_split_model.ragged_batch(9, 5, 3, 9)
    return SplitModel(test_families.build(name)), test_families.columns(name)[0]


def part(batch: dict[str, torch.Tensor], rows: slice) -> dict[str, torch.Tensor]:
    return {name: values[rows] for name, values in batch.items()}


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit"])
def test_blocks_below_are_near_and_those_above_as_they_were(name: str, kind: Quantization) -> None:
    split, batch = built(name)
    whole, digests = hidden(split, batch), weight_digests(split)
    with torch.no_grad():
        above = split.logits(batch, 2, {"hidden_states": whole})
    place_model(split, CPU, 2, kind)
    assert quantized_blocks(split) == 2
    low, high = ERRORS[kind]
    assert low < float((hidden(split, batch) - whole).norm() / whole.norm()) < high
    with torch.no_grad():
        assert torch.equal(split.logits(batch, 2, {"hidden_states": whole}), above)
    assert weight_digests(split) == digests, "its own weights are what is stored and published"
    place_model(split, CPU, 1, kind)
    assert quantized_blocks(split) == 1
    place_model(split, CPU, 0, kind)
    assert torch.equal(hidden(split, batch), whole)


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5", "vit"])
def test_fewer_bits_are_further_from_the_whole(name: str) -> None:
    errors = []
    for kind in ("8bit", "4bit"):
        split, batch = built(name)
        whole = hidden(split, batch)
        place_model(split, CPU, 2, kind)
        errors.append(float((hidden(split, batch) - whole).norm()))
    assert errors[0] < errors[1]


@needs_bitsandbytes
@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_its_own_beside_outliers(kind: Quantization) -> None:
    """LLM.int8 itself would take columns out for all rows of a batch in which one is large."""
    split = make_split(dropout=0.0)
    with torch.no_grad():
        split.model.get_input_embeddings().weight[9, :3] = 50.0
    place_model(split, CPU, 2, kind)
    batch = {"input_ids": torch.tensor([[5, 6, 7], [9, 9, 9]])}
    together, alone = hidden(split, batch), hidden(split, part(batch, slice(0, 1)))
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=1e-6)


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:In CPU autocast")
def test_the_suffix_learns_and_bf16_is_computed_in_bf16() -> None:
    split = make_split(dropout=0.0)
    place_model(split, CPU, 2, "8bit")
    split.set_training(2)
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer = split.blocks[0].attention.self.query
        assert layer(torch.randn(2, 32)).dtype == torch.bfloat16
        split.logits(batch).sum().backward()
    gradients = {name for name, p in split.model.named_parameters() if p.grad is not None}
    assert gradients == {name for name, p in split.model.named_parameters() if p.requires_grad}


@needs_bitsandbytes
def test_measuring_trains_nothing_that_is_quantized() -> None:
    examples = make_examples()
    trainee = make_trainee(make_split(), examples)
    place_model(trainee.split, CPU, 2, "4bit")
    trained = []
    forward = trainee.split.set_training
    trainee.split.set_training = lambda k: trained.append(k) or forward(k)  # type: ignore[method-assign, func-returns-value]
    found = measure_steps(trainee, grouped_batches(examples, 1), StepSettings(), budget_seconds=0.0)
    assert set(trained) == {2, 3}
    assert found.num_blocks == 4
    assert quantized_blocks(trainee.split) == 2


def test_without_the_package_one_line_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError) as caught:
        check_quantization("4bit", CPU)
    assert str(caught.value) == (
        "model.quantization: 4bit needs the package bitsandbytes: pip install "
        '"autofreeze[quantization]"'
    )


@needs_bitsandbytes
def test_a_library_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes import functional

    def fail(*_: Any) -> None:
        raise RuntimeError("\nlibbitsandbytes_cuda999.so was not found\nand a page of advice")

    check_quantization("8bit", CPU)
    monkeypatch.setattr(functional, "int8_vectorwise_quant", fail)
    with pytest.raises(ConfigError) as caught:
        check_quantization("8bit", CPU)
    assert str(caught.value) == (
        "model.quantization: 8bit does not run on cpu with this bitsandbytes: "
        "libbitsandbytes_cuda999.so was not found. Install one that fits, or leave it out"
    )


@needs_bitsandbytes
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("kind", KINDS)
def test_a_device_holds_few_bits_and_the_host_the_weights(kind: Quantization) -> None:
    split, device = make_split(dropout=0.0), torch.device("cuda")
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    whole = hidden(split, batch)
    place_model(split, device, 2, kind)
    layers = [block.attention.self.query for block in split.blocks]
    assert [layer.weight.device.type for layer in layers] == ["cpu", "cpu", "cuda", "cuda"]
    found = hidden(split, {"input_ids": batch["input_ids"].to(device)}).cpu()
    assert float((found - whole).norm() / whole.norm()) < ERRORS[kind][1]
    place_model(split, device, 0, kind)
    assert {p.device.type for p in split.model.parameters()} == {"cuda"}
