import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.config import parse_config
from afcore.data.examples import Examples
from afcore.errors import ConfigError, DataError, ModelError
from afcore.runs.fit import check_fit, check_length, num_positions
from afcore.runs.identify import identify_run
from afcore.storage.objects import Storage
from afcore.tasks.stored_tokens import PreparedData
from afcore.tasks.text_classification import TextClassification
from tests.conftest import write_csv
from tests.training_setup import labelled

SMALL: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def roberta(pad_token_id: int = 1, positions: int = 66) -> Any:
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **SMALL, max_position_embeddings=positions, pad_token_id=pad_token_id
    )
    return transformers.RobertaForSequenceClassification(config).eval()


def bert() -> Any:
    config = transformers.BertConfig(**SMALL, max_position_embeddings=64, pad_token_id=0)
    return transformers.BertForSequenceClassification(config).eval()


def examples(*lengths: int, token: int = 5) -> Examples:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.full(offsets[-1], token, dtype=np.int32)
    return labelled(tokens, offsets, np.zeros(len(lengths), dtype=np.int64))


def prepared(**splits: Examples) -> PreparedData:
    data = PreparedData(
        "d" * 64,  # type: ignore[arg-type]
        TextClassification(label_names=["a", "b"], pad_token_id=0),
        examples(4, 9),
        examples(7),
        examples(5),
    )
    return dataclasses.replace(data, **splits)


@pytest.mark.parametrize(("pad_token_id", "expected"), [(0, 65), (1, 64), (5, 60)])
def test_roberta_counts_positions_from_behind_the_padding(pad_token_id: int, expected: int) -> None:
    model = roberta(pad_token_id)
    assert num_positions(model) == expected
    ids = torch.full((1, expected), 7)
    model(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, expected + 1), 7))


def test_positions_of_others() -> None:
    assert num_positions(bert()) == 64
    xlnet = transformers.XLNetConfig(vocab_size=400, d_model=32, n_layer=2, n_head=4, d_inner=64)
    assert num_positions(transformers.XLNetForSequenceClassification(xlnet)) is None


def test_a_length_that_the_model_has_no_positions_for(tiny_tokenizer: Any) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer
    )
    check_length(64, "m", roberta(), tokenizer)
    with pytest.raises(ConfigError, match=r"'m' has positions for 64 tokens only\. Set data\.max"):
        check_length(66, "m", roberta(), tokenizer)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_token_without_a_vector_in_any_split(tiny_tokenizer: Any, split: str) -> None:
    model = bert()
    check_fit("m", model, tiny_tokenizer, prepared(**{split: examples(3, token=399)}))
    with pytest.raises(DataError, match=f"makes token 400 .* in {split}, .* 400 tokens only"):
        check_fit("m", model, tiny_tokenizer, prepared(**{split: examples(3, token=400)}))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_example_that_cannot_be_computed_in_any_split(tiny_tokenizer: Any, split: str) -> None:
    model = bert()
    check_fit("m", model, tiny_tokenizer, prepared(**{split: examples(3, 64)}))
    with pytest.raises(ModelError, match=rf"longest example \(65 tokens, in {split}\)"):
        check_fit("m", model, tiny_tokenizer, prepared(**{split: examples(3, 65)}))


def test_padding_without_a_vector(
    tiny_bert: Path, tiny_tokenizer: Any, local_storage: Storage, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bert, tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[NEW]"})
    tokenizer.save_pretrained(folder)
    rows = [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(20)]
    data = {"train": str(write_csv(tmp_path / "train.csv", rows)), "max_length": 32}
    tree = {"model": {"name": str(folder)}, "data": data}
    number = len(tiny_tokenizer)
    with pytest.raises(
        ModelError, match=rf"is {number} \('\[NEW\]'\), and the model has no vector"
    ):
        identify_run(parse_config(tree, source="test"), local_storage)


def test_a_long_text_of_the_test_alone_is_found_before_training(
    tiny_tokenizer: Any, local_storage: Storage, tmp_path: Path
) -> None:
    folder = tmp_path / "roberta"
    roberta(tiny_tokenizer.pad_token_id + 1).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer, pad_token="[UNK]", unk_token="[UNK]"
    ).save_pretrained(folder)
    short = [{"text": f"word {i}", "label": "ab"[i % 2]} for i in range(20)]
    long = [{"text": "a " * 100, "label": "a"}]
    tree = {
        "model": {"name": str(folder)},
        "data": {
            "train": str(write_csv(tmp_path / "train.csv", short)),
            "test": str(write_csv(tmp_path / "test.csv", long)),
            "max_length": 66,
        },
    }
    with pytest.raises(ConfigError, match=r"max_length is 66, but .* positions for 64 tokens only"):
        identify_run(parse_config(tree, source="test"), local_storage)
