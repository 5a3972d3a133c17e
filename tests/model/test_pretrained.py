"""What a checkpoint is refused for, and what of it does not go on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from afcore.digest import canonical_json
from afcore.errors import ModelError
from afcore.model.checks import verify_finite
from afcore.model.pretrained import architecture_of, build_model, load_model, load_tokenizer
from afcore.model.split_model import SplitModel
from tests.model import test_families
from tests.model.test_quantization import needs_bitsandbytes
from tests.training_setup import TASK

TASK_SETTINGS = {"pad_token_id": 0, **TASK.head_settings}


@pytest.fixture
def checkpoint(tiny_bert: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoilt."""
    return shutil.copytree(tiny_bert, tmp_path / "model")


def load(folder: Path | str, **options: Any) -> Any:
    return load_model(str(folder), TASK.auto_class, 0, **TASK_SETTINGS | options)


def configure(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def set_weight(folder: Path, key: str, value: float) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[key].view(-1)[3] = value
    save_file(weights, file, metadata={"format": "pt"})


def forget(folder: Path, *keys: str) -> None:
    file = folder / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if not k.startswith(keys)}
    save_file(weights, file, metadata={"format": "pt"})


def test_weights_lie_where_products_round_alike(checkpoint: Path) -> None:
    """As those do that are copied from a checkpoint, whatever their place in the file."""
    model = load(checkpoint)
    assert {tensor.data_ptr() % 64 for tensor in (*model.parameters(), *model.buffers())} == {0}


INCOMPLETE: dict[str, tuple[Callable[[Path], None], str]] = {
    "more blocks": (
        lambda folder: configure(folder, num_hidden_layers=6),
        r"its weights lack bert\.encoder\.layer\.4\..* and 29 more\. .*model\.allow_new_weights",
    ),
    "longer positions": (
        lambda folder: configure(folder, max_position_embeddings=128),
        r"position_embeddings\.weight is \[64, 32\] in its weights, but \[128, 32\] by config",
    ),
    "a larger vocabulary": (
        lambda folder: configure(folder, vocab_size=1000),
        r"word_embeddings\.weight is \[\d+, 32\] in its weights, but \[1000, 32\] by config",
    ),
    "a norm of the embeddings": (
        lambda folder: forget(folder, "embeddings.LayerNorm.weight"),
        r"its weights lack bert\.embeddings\.LayerNorm\.weight\.",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_embeddings_and_blocks_are_not_drawn_at_random_unasked(case: str, checkpoint: Path) -> None:
    change, message = INCOMPLETE[case]
    change(checkpoint)
    with pytest.raises(ModelError, match=message):
        load(checkpoint)
    assert load(checkpoint, allow_new=True).config.num_labels == 3


BODILESS: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "blocks of an encoder": (
        "t5-generation",
        "AutoModelForSeq2SeqLM",
        {"num_layers": 5},
        r"its weights lack encoder\.block\.4\.",
    ),
    "blocks of a decoder": (
        "t5-generation",
        "AutoModelForSeq2SeqLM",
        {"num_decoder_layers": 3},
        r"its weights lack decoder\.block\.2\.",
    ),
    "a larger vocabulary": (
        "t5-generation",
        "AutoModelForSeq2SeqLM",
        {"vocab_size": 100},
        r"weight is \[64, 32\] in its weights, but \[100, 32\] by config",
    ),
    "blocks of pictures": (
        "clip",
        "AutoModelForImageClassification",
        {"vision_config": {"num_hidden_layers": 5}},
        r"its weights lack vision_model\..*layers\.4\.",
    ),
}


@pytest.mark.parametrize("case", BODILESS)
def test_what_a_model_without_a_body_of_its_own_lacks_is_not_drawn_either(
    case: str, tmp_path: Path
) -> None:
    """Its blocks are named as the model's own, as no base model has them."""
    name, auto_class, changes, message = BODILESS[case]
    model = test_families.build(name)
    assert model.base_model is model
    model.save_pretrained(tmp_path)
    load_model(str(tmp_path), auto_class, 0)
    config = json.loads((tmp_path / "config.json").read_text())
    inner = {key: config[key] | value for key, value in changes.items() if isinstance(value, dict)}
    configure(tmp_path, **changes | inner)
    with pytest.raises(ModelError, match=message):
        load_model(str(tmp_path), auto_class, 0)
    load_model(str(tmp_path), auto_class, 0, allow_new=True)


def test_a_new_classifier_over_a_model_without_a_body_is_ordinary(tmp_path: Path) -> None:
    transformers.CLIPModel(test_families.build("clip").config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), "AutoModelForImageClassification", 0, num_labels=5)
    assert model.classifier.out_features == 5


def test_weights_of_another_model_are_refused(checkpoint: Path) -> None:
    forget(checkpoint, "encoder.layer.0", "encoder.layer.1", "encoder.layer.2", "encoder.layer.3")
    with pytest.raises(ModelError, match="fit none of its blocks"):
        load(checkpoint)


@needs_bitsandbytes
@pytest.mark.parametrize("kind", ["load_in_4bit", "load_in_8bit"])
def test_weights_that_are_quantized_are_refused(
    kind: str, checkpoint: Path, tmp_path: Path
) -> None:
    how = transformers.BitsAndBytesConfig(**{kind: True})
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint, quantization_config=how, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "quantized")
    with pytest.raises(ModelError, match="its weights are quantized, so they cannot be trained"):
        load(tmp_path / "quantized")


def test_a_new_pooler_is_ordinary_and_said(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget(checkpoint, "pooler")
    with caplog.at_level("INFO", "afcore"):
        load(checkpoint)
    assert "newly drawn: bert.pooler.dense.bias, bert.pooler.dense.weight, classifier" in (
        caplog.text
    )


def test_where_nothing_is_new_that_is_said(
    tiny_generators: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "afcore"):
        load_model(str(tiny_generators / "gpt2"), "AutoModelForCausalLM", 0)
    assert caplog.messages[-1].endswith("newly drawn: nothing")


def test_the_last_norm_of_a_decoder_is_of_its_body(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    transformers.GPT2Model(config).save_pretrained(tmp_path / "gpt2")
    load(tmp_path / "gpt2")
    forget(tmp_path / "gpt2", "ln_f")
    with pytest.raises(ModelError, match=r"its weights lack transformer\.ln_f\.bias"):
        load(tmp_path / "gpt2")


def test_blocks_that_are_left_out_are_said(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(checkpoint)
    assert "no place" not in caplog.text
    configure(checkpoint, num_hidden_layers=2)
    assert SplitModel(load(checkpoint)).num_blocks == 2
    assert "are not used: encoder.layer.2, encoder.layer.3" in caplog.text


def test_what_a_checkpoint_was_saved_for_does_not_go_on(
    checkpoint: Path, tiny_tokenizer: Any
) -> None:
    usual = load(checkpoint)
    for kind in ("regression", "multi_label_classification"):
        configure(checkpoint, problem_type=kind, return_dict=False, output_hidden_states=True)
        model = load(checkpoint)
        again = build_model(model.config.to_dict(), TASK.auto_class)
        for config in (model.config, again.config):
            assert config.problem_type == "single_label_classification"
            assert (config.return_dict, config.output_hidden_states) == (True, False)
        assert all(map(torch.equal, usual.parameters(), model.parameters()))
        pipeline = transformers.pipeline(
            "text-classification", model=model, tokenizer=tiny_tokenizer, top_k=None
        )
        (answers,) = pipeline(["a parser of words"])
        scores = {answer["label"]: answer["score"] for answer in answers}
        assert scores.keys() == set(TASK.label_names)
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_said_by_name(value: float, checkpoint: Path) -> None:
    set_weight(checkpoint, "encoder.layer.2.output.dense.weight", value)
    with pytest.raises(
        ModelError, match=r"NaN or infinite\): bert\.encoder\.layer\.2\.output\.dense\.weight\."
    ):
        load(checkpoint)


def test_weights_that_give_no_numbers_are_said(checkpoint: Path) -> None:
    batch = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3).long()}
    verify_finite(SplitModel(load(checkpoint)), batch)
    set_weight(checkpoint, "pooler.dense.bias", 100.0)  # all that the head reads is 1
    model = load(checkpoint)
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)
    with pytest.raises(ModelError, match="puts out NaN or infinity before any training"):
        verify_finite(SplitModel(model), batch)


DAMAGED = {
    "tokenizer.json": (load_tokenizer, 300),
    "tokenizer_config.json": (load_tokenizer, 20),
    "config.json": (load, 20),
    "model.safetensors": (load, 1000),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named(name: str, checkpoint: Path) -> None:
    read, size = DAMAGED[name]
    file = checkpoint / name
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=rf"{file} is damaged: .*Copy or download it anew"):
        read(str(checkpoint))


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "gpt2", "distilbert", "t5", "llama", "xlm-roberta"]
)
def test_a_folder_without_a_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    transformers.AutoConfig.for_model(kind).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"its tokenizer has no vocabulary: tokenizer\.json"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./modle", r"no such folder: .*/modle; did you mean 'model'\?$"),
        ("modle", r"no such folder: .*/modle; did you mean 'model'\?; nor was"),
        ("models/tinny", r"no such folder: .*/models/tinny; did you mean 'models/tiny'\?; nor was"),
        ("models/of/mine", r"no such folder: .*/models/of/mine$"),
        ("models/", r"the folder has no config\.json"),
        ("model/config.json", "is a file; give the folder"),
    ],
)
def test_a_misspelt_folder_is_said(
    name: str,
    message: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "models" / "tiny").mkdir(parents=True)
    for read in (load, load_tokenizer):
        with pytest.raises(ModelError, match=message) as raised:
            read(name)
        assert "couldn't connect" not in str(raised.value)


@pytest.mark.parametrize("name", ["package:nothing/x", "package:nothing.inside/x", "package:/x"])
def test_a_package_that_is_not_there_is_said(name: str) -> None:
    for read in (load, load_tokenizer):
        with pytest.raises(
            ModelError, match=rf"^model '{name}': the package '.*' is not installed"
        ):
            read(name)


def test_an_architecture_with_infinities_is_recorded_and_built_again() -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "state_size": 8, "vocab_size": 64}
    heads = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "expand": 2}
    config = transformers.Mamba2Config(**sizes, **heads)
    assert config.time_step_limit[1] == float("inf")
    architecture = architecture_of(transformers.Mamba2ForCausalLM(config))
    recorded = json.loads(canonical_json(architecture))
    built = build_model(recorded, "AutoModelForCausalLM")
    assert tuple(built.config.time_step_limit) == (0.0, float("inf"))
