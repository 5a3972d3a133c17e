"""Models of which the verdict is known, and what the verdict stands on."""

import json
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from afcore.conformance.heads import find_head
from afcore.conformance.opened_model import build_random
from afcore.conformance.verdict import check_model, check_opened
from afcore.errors import ConfigError, ModelError
from afcore.model.checks import verify_split
from afcore.model.probing import varied_batch
from afcore.model.split_model import SplitModel
from tests.conftest import load_script

DOCS = Path(__file__).parents[2] / "docs"
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
WITHOUT_WORDS = {name: size for name, size in SIZES.items() if name != "vocab_size"}
VERDICTS = {
    "ModernBERT": "cached",
    "DeBERTa-v3": "cached",
    "Llama": "cached",
    "Qwen3": "cached",
    "Gemma 3": "cached",
    "T5": "cached",
    "BART": "cached",
    "ViT": "cached",
    "Mixtral": "cached",
    "Whisper": "cached",
    "wav2vec 2.0, layer norm": "cached",
    "FNet": "freeze only",
    "Longformer": "freeze only",
    "BigBird": "freeze only",
    "CANINE": "freeze only",
    "wav2vec 2.0, group norm": "freeze only",
    "wav2vec 2.0, weighted sum": "unsupported",
    "ALBERT": "unsupported",
    "XLNet": "unsupported",
    "Swin": "unsupported",
}


@pytest.fixture(scope="module")
def families() -> ModuleType:
    return load_script(DOCS / "families.py")


@pytest.fixture(autouse=True)
def _models_may_warn() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def bert(**settings: Any) -> Any:
    return transformers.BertConfig(**SIZES | settings)


def look_at(config: Any, task: str | None = None) -> Any:
    head = find_head(config, task)
    assert head is not None
    return check_opened("a model", build_random(config, head))


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts_are_those_of_the_committed_page(families: ModuleType, name: str) -> None:
    found = families.try_family(name)
    assert found.verdict == VERDICTS[name], found.reason
    page = (DOCS / "models.md").read_text(encoding="utf-8")
    (committed,) = [line for line in page.splitlines() if line.startswith(f"| {name} |")]
    assert f"| **{found.verdict}** |" in committed
    if found.verdict == "cached":
        assert families.row(found) == committed, "run: python docs/families.py"
        assert found.bytes_per_token == {"fp32": 128, "bf16": 64, "int8": 36}
        assert [one.boundary for one in found.compared] == list(range(1, found.blocks.count))


@pytest.mark.slow
def test_the_rest_of_the_committed_page_is_what_the_script_writes(families: ModuleType) -> None:
    committed = (DOCS / "models.md").read_text(encoding="utf-8")
    assert len(families.FAMILIES) >= 30
    assert set(VERDICTS) < set(families.FAMILIES)
    # How much a model differs is not the same on every machine; the verdicts are.
    wrong = [
        name
        for name in families.FAMILIES
        if name not in VERDICTS
        and families.row(families.try_family(name)).partition("** |")[0] + "** |" not in committed
    ]
    assert wrong == [], "run: python docs/families.py"


def test_a_cached_model_says_what_it_stands_on() -> None:
    found = look_at(bert())
    assert found.verdict == "cached"
    assert (found.blocks.count, found.blocks.kind) == (3, "BertLayer")
    assert "bert.embeddings.word_embeddings.weight" in found.blocks.embeddings
    assert "classifier.weight" in found.blocks.head
    assert found.precision == "float64"
    for one in found.compared:
        assert max(*vars(one.split).values(), *vars(one.stored).values()) < 1e-9
    assert found.drawn["hidden_dropout_prob"] == 0.1
    assert found.widths == {"hidden_states": 32}
    assert look_at(bert(), "fill-mask").model == "BertForMaskedLM"


class _ReadsBelow(transformers.BertForSequenceClassification):
    """Its head adds a little of what block 0 puts out."""

    share = 1e-4

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        body = self.bert(input_ids, attention_mask, output_hidden_states=True)
        pooled = body.pooler_output + self.share * body.hidden_states[1][:, 0]
        return transformers.modeling_outputs.SequenceClassifierOutput(
            logits=self.classifier(self.dropout(pooled))
        )


@pytest.mark.parametrize("share", [1.0, 1e-4])
def test_a_head_that_reads_a_frozen_block_is_unsupported(share: float) -> None:
    """Also where it changes outputs by less than what a training is checked to."""
    opened = build_random(bert(), find_head(bert(), None))  # type: ignore[arg-type]
    opened.model.__class__ = _ReadsBelow
    opened.model.share = share
    found = check_opened("a model", opened)
    assert found.verdict == "unsupported"
    assert "prefix and suffix at boundary 2 are not the whole" in found.reason
    assert found.compared[0].boundary == 1


class _TrainedBelow(nn.Module):
    """A block that adds a vector which is not of its own."""

    def __init__(self, block: nn.Module, shared: nn.Parameter) -> None:
        super().__init__()
        self.block = block
        self.shared = [shared]

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return self.block(hidden_states + self.shared[0], *args, **kwargs)


def test_a_weight_above_that_enters_below_is_unsupported() -> None:
    opened = build_random(bert(), find_head(bert(), None))  # type: ignore[arg-type]
    layers, bias = opened.model.bert.encoder.layer, opened.model.bert.pooler.dense.bias
    layers[1] = _TrainedBelow(layers[1], bias)
    layers[0] = _TrainedBelow(layers[0], nn.Parameter(torch.zeros(32), requires_grad=False))
    layers[2] = _TrainedBelow(layers[2], nn.Parameter(torch.zeros(32), requires_grad=False))
    found = check_opened("a model", opened)
    assert found.verdict == "unsupported"
    assert "at boundary 2 are not the whole (outputs differ by 0e+00, gradients" in found.reason


class _Counts(nn.Module):
    """Adds how often it was trained: a buffer that changes in training, below every boundary."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.table = table
        self.register_buffer("count", torch.zeros(()))

    def forward(self, ids: Any) -> Any:
        return self.table(ids) + self.count


def test_a_buffer_that_training_above_changes_is_freeze_only() -> None:
    opened = build_random(bert(), find_head(bert(), None))  # type: ignore[arg-type]
    counts = _Counts(opened.model.bert.embeddings.word_embeddings)
    opened.model.bert.embeddings.word_embeddings = counts

    def count(_module: Any, _given: Any, _output: Any) -> None:
        if opened.model.training:
            counts.count += 1

    opened.model.classifier.register_forward_hook(count)
    found = check_opened("a model", opened)
    assert found.verdict == "freeze only"
    assert "training above boundary 2 changes the hidden states there" in found.reason


def test_a_model_that_draws_in_eval_mode_is_unsupported() -> None:
    opened = build_random(bert(), find_head(bert(), None))  # type: ignore[arg-type]
    opened.model.classifier.register_forward_hook(lambda *given: given[2] + torch.randn(()))
    found = check_opened("a model", opened)
    assert (found.verdict, found.reason[:42]) == (
        "unsupported",
        "it draws at random even in eval mode: one ",
    )


def test_what_a_training_checks_says_the_same() -> None:
    """:func:`verify_split` of a run, on a batch whose length is no multiple of the window."""
    config = transformers.LongformerConfig(**SIZES, attention_window=4)
    model = build_random(config, find_head(config, None)).model  # type: ignore[arg-type]
    split = SplitModel(model)
    assert split.structure.stack.body == "", "its classifier makes the global attention"
    assert verify_split(split, varied_batch(model, 16), 1, 1e-4) is None
    reason = verify_split(split, varied_batch(model, 15), 1, 1e-4)
    assert reason == "its hidden_states have 16 positions for 15 tokens, not one for each"


def test_memory_is_what_a_container_leaves_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    six_blocks = transformers.BertForMaskedLM(bert(num_hidden_layers=6)).num_parameters()
    room = 4 * 4 * six_blocks
    monkeypatch.setattr("afcore.conformance.opened_model.available_memory", lambda: room)
    assert look_at(bert(num_hidden_layers=5)).blocks.count == 5
    found = look_at(bert(num_hidden_layers=9))
    assert found.weights.startswith("random, 4 of its 9 blocks")
    assert found.blocks.count == 4
    room = 1000
    with pytest.raises(ModelError, match="even with 4 blocks they have no room in memory"):
        look_at(bert())


def test_a_folder_with_a_configuration_alone_gets_random_weights(tmp_path: Path) -> None:
    bert(architectures=["BertForTokenClassification"]).save_pretrained(tmp_path)
    found = check_model(str(tmp_path))
    assert (found.verdict, found.model) == ("cached", "BertForTokenClassification")
    assert found.task == "token-classification (as it was saved)"
    assert found.weights == "random (there are none beside config.json)"
    assert check_model(str(tmp_path), "text-classification").model == (
        "BertForSequenceClassification"
    )
    transformers.BertForTokenClassification(bert()).save_pretrained(tmp_path)
    assert check_model(str(tmp_path)).weights == "its own"


def test_pickled_weights_are_named_and_not_taken_for_none(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    (tmp_path / "training_args.bin").write_bytes(b"")
    assert check_model(str(tmp_path)).notes == []
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    found = check_model(str(tmp_path))
    assert (found.verdict, found.weights) == (
        "cached",
        "random (there are no safetensors beside config.json)",
    )
    (note,) = found.notes
    assert note.startswith("runs read safetensors alone, and refuse pytorch_model.bin: ")


@pytest.mark.parametrize(
    ("changes", "weights", "said"),
    [
        (
            {"vocab_size": 80},
            "its own; random: 1 tensor of another size",
            "a run refuses these weights: bert.embeddings.word_embeddings.weight is [64, 32] in "
            "its weights, but [80, 32] by config.json",
        ),
        (
            {"num_hidden_layers": 4},
            "its own; random: 16 tensors that they lack",
            "a run refuses these weights: its weights lack bert.encoder.layer.3.",
        ),
        (
            {"num_hidden_layers": 2},
            "its own",
            "its weights have blocks for which config.json has no place: encoder.layer.2",
        ),
        (
            {"auto_map": {"AutoModel": "own.Model"}},
            "its own",
            "code of the model's own (auto_map) is not run: it is tried as Transformers' bert",
        ),
        (
            {"quantization_config": {"quant_method": "none-such"}},
            "its own",
            "Transformers knows no quantization called 'none-such': it is left out",
        ),
    ],
)
def test_what_of_a_folder_is_not_used_is_noted(
    tmp_path: Path, changes: dict[str, Any], weights: str, said: str
) -> None:
    transformers.BertForSequenceClassification(bert()).save_pretrained(tmp_path)
    change(tmp_path, **changes)
    found = check_model(str(tmp_path))
    assert (found.verdict, found.weights) == ("cached", weights)
    (note,) = found.notes
    assert note.startswith(said)


def change(folder: Path, **settings: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (float("nan"), r"its weights are not all numbers \(NaN or infinite\): bert\.enc"),
        (1e38, "puts out NaN or infinity before any training, though its weights are numbers"),
    ],
)
def test_weights_are_looked_at_as_by_a_run(tmp_path: Path, factor: float, said: str) -> None:
    """Those that are no numbers are an error; those that are too large have a verdict."""
    model = transformers.BertForSequenceClassification(bert())
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.mul_(factor)
    model.save_pretrained(tmp_path)
    if factor == 1e38:
        found = check_model(str(tmp_path))
        assert found.verdict == "unsupported"
        assert said in found.reason
        return
    with pytest.raises(ModelError, match=said):
        check_model(str(tmp_path))


@pytest.mark.parametrize("count", [1, 0, -1])
def test_too_few_blocks_are_counted(count: int) -> None:
    found = look_at(bert(num_hidden_layers=count))
    assert found.verdict == "unsupported"
    what = "1 block" if count == 1 else f"{count} blocks"
    assert f"it has {what} by its configuration, and at least two are needed" in found.reason


def test_code_of_a_model_s_folder_is_not_asked_for(tmp_path: Path) -> None:
    bert().save_pretrained(tmp_path)
    change(tmp_path, model_type="odd", auto_map={"AutoConfig": "configuration_odd.OddConfig"})
    found = check_model(str(tmp_path))
    assert (found.verdict, found.reason) == (
        "unsupported",
        "it needs code of its own (auto_map), and code from a model's folder is not run.",
    )


@pytest.mark.parametrize(
    ("rope", "noted"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, False),
        ({"rope_type": "default"}, None),
        (
            {
                "rope_type": "longrope",
                "original_max_position_embeddings": 500,
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
            },
            True,
        ),
    ],
)
def test_positions_that_change_with_the_length_are_tried_beyond_where_they_do(
    rope: dict[str, Any], noted: bool | None
) -> None:
    sizes = SIZES | {"max_position_embeddings": 1000 if noted else 30, "pad_token_id": 0}
    config = transformers.LlamaConfig(**sizes, rope_parameters={"rope_theta": 1e4} | rope)
    found = look_at(config)
    assert found.verdict == ("freeze only" if noted is False else "cached"), found.reason
    what = "its positions are others in texts of more than 500 tokens, and it was tried with 15"
    assert found.notes == ([what] if noted else [])


def test_whatever_a_configuration_says_there_is_a_verdict(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "no-such-model"}')
    assert check_model(str(tmp_path)).verdict == "unsupported"
    bert(num_attention_heads=5).save_pretrained(tmp_path)
    found = check_model(str(tmp_path))
    assert found.verdict == "unsupported"
    assert "it cannot be built: The hidden size (32) is not a multiple" in found.reason
    transformers.CLIPTextConfig(**SIZES).save_pretrained(tmp_path)
    assert "no class of clip_text_model with any head" in check_model(str(tmp_path)).reason


def test_what_a_user_can_mend_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        check_model(str(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type"')
    with pytest.raises(ModelError, match=r"config\.json is damaged"):
        check_model(str(tmp_path))
    for text, said in (
        ("[1, 2]", r"config\.json is damaged: it holds no keys"),
        ('{"vocab_size": 64}', "Should have a `model_type` key"),
        ('{"model_type": "bert", "hidden_size": "big"}', "'hidden_size' expected int, got str"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ModelError, match=f"^model .* cannot be read: .*{said}"):
            check_model(str(tmp_path))
    bert().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="--task: there is none called 'sorting'"):
        check_model(str(tmp_path), "sorting")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is damaged"):
        check_model(str(tmp_path))


def test_what_a_config_was_saved_for_does_not_go_into_the_verdict() -> None:
    settings = {"return_dict": False, "output_hidden_states": True, "output_attentions": True}
    assert look_at(bert(**settings)).verdict == "cached"


def test_what_a_router_puts_out_is_no_answer() -> None:
    sizes = SIZES | {"num_key_value_heads": 2, "num_local_experts": 2, "num_experts_per_tok": 1}
    config = transformers.MixtralConfig(**sizes, output_router_logits=True)
    assert look_at(config, "causal-language-modeling").verdict == "cached"


def test_pictures_are_of_the_size_that_an_encoder_of_its_own_takes() -> None:
    encoder = transformers.ViTConfig(**WITHOUT_WORDS, image_size=16, patch_size=8)
    decoder = transformers.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    assert look_at(config).verdict == "cached"


def test_patches_that_are_cut_before_cannot_be_made_up() -> None:
    config = transformers.Siglip2Config(
        vision_config=WITHOUT_WORDS | {"num_patches": 16, "patch_size": 4},
        text_config=SIZES | {"projection_size": 32},
    )
    found = look_at(config, "image-classification")
    assert found.verdict == "unsupported"
    assert "none can be made up" in found.reason
    assert "so it was not tried. In Python, SplitModel(model, batch=...)" in found.reason


def test_a_reason_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_model: Any) -> None:
        raise ModelError("one thing\n  and another")

    monkeypatch.setattr("afcore.conformance.verdict.SplitModel", fail)
    assert look_at(bert()).reason == "one thing and another"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"adapter_config.json": "{}"}, "it is an adapter of PEFT. Merge it into its model"),
        ({"model-q4.gguf": ""}, "it has GGUF weights, which are for inference alone"),
        (
            {
                "modules.json": "[]",
                "0_Transformer/config.json": '{"model_type": "bert"}',
                "1_Pooling/config.json": "{}",
            },
            "there is a model in it: give .*0_Transformer[.]$",
        ),
    ],
)
def test_a_folder_of_another_kind_is_named(
    tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=rf"the folder has no config\.json.*{said}"):
        check_model(str(tmp_path))
