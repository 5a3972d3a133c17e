from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afcore.data.prepare import open_prepared, prepare
from afcore.errors import DataError
from afcore.storage.objects import Storage
from tests.conftest import write_csv

SETTINGS: dict[str, Any] = {
    "validation": 0.1,
    "test": None,
    "text": "text",
    "label": "label",
    "max_length": 32,
    "limit": None,
    "test_limit": None,
}


def test_examples_are_the_tokenizers_tokens(
    local_storage: Storage, tiny_tokenizer: Any, text_files: dict[str, Path]
) -> None:
    data = prepare(
        local_storage,
        tiny_tokenizer,
        train=str(text_files["train"]),
        **SETTINGS | {"validation": str(text_files["test"]), "test": str(text_files["test"])},
    )
    assert data.test is not None
    assert data.label_names == ["argparse", "random", "statistics"]
    assert data.validation.digest == data.test.digest
    assert data.train.lengths.max() == 32
    assert data.train.lengths.sum() == len(data.train.tokens)
    first = data.train.tokens[: data.train.offsets[1]]
    assert (first[0], first[-1]) == (2, 3)


def test_validation_is_held_out_of_train(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 10)} for i in range(100)]
    path = write_csv(tmp_path / "t.csv", rows)
    data = prepare(local_storage, tiny_tokenizer, train=str(path), **SETTINGS)
    assert (len(data.train), len(data.validation), data.test) == (90, 10, None)
    assert data.label_names == [str(i) for i in range(10)]


def test_prepared_once_and_opened_afterwards(
    local_storage: Storage, tiny_tokenizer: Any, text_files: dict[str, Path]
) -> None:
    one = prepare(local_storage, tiny_tokenizer, train=str(text_files["train"]), **SETTINGS)
    before = local_storage.usage.puts
    two = prepare(local_storage, tiny_tokenizer, train=str(text_files["train"]), **SETTINGS)
    assert local_storage.usage.puts == before
    assert two.digest == one.digest
    assert np.array_equal(open_prepared(local_storage, one.digest).train.tokens, two.train.tokens)
    shorter = prepare(
        local_storage,
        tiny_tokenizer,
        train=str(text_files["train"]),
        **SETTINGS | {"max_length": 16},
    )
    assert shorter.digest != one.digest


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("xy", "z", "labels that the training set never shows: 'z'. Known are 'x', 'y'"),
        ("xx", "x", "one class only: 'x'"),
        ("x", "x", "too few to hold out"),
    ],
)
def test_labels_that_cannot_be_learnt(
    local_storage: Storage,
    tiny_tokenizer: Any,
    tmp_path: Path,
    train: str,
    test: str,
    message: str,
) -> None:
    paths = {
        name: write_csv(tmp_path / f"{name}.csv", [{"text": "t", "label": x} for x in labels])
        for name, labels in (("train", train * 5 if len(train) > 1 else train), ("test", test))
    }
    with pytest.raises(DataError, match=message):
        prepare(
            local_storage,
            tiny_tokenizer,
            train=str(paths["train"]),
            **SETTINGS | {"test": str(paths["test"])},
        )
