import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.data.examples import Examples
from afcore.data.fold import Fold
from afcore.data.sources import Rows
from afcore.data.split import held_out, sampled
from afcore.errors import ConfigError, DataError, IntegrityError
from afcore.storage.objects import Storage
from afcore.tasks import stored_tokens
from afcore.tasks.known_tasks import task_of_model
from afcore.tasks.prepare import DataSources
from afcore.tasks.prepare import prepare as prepare_splits
from afcore.tasks.stored_tokens import PreparedData, open_prepared
from tests.conftest import write_csv

SETTINGS: dict[str, Any] = {"validation": 0.1, "test": None, "max_length": 32}


def prepare(storage: Storage, tokenizer: Any, **settings: Any) -> PreparedData:
    given = {
        "columns": {"text": "text", "label": "label"},
        "task": "text-classification",
    } | settings
    task, max_length = given.pop("task"), given.pop("max_length")
    return prepare_splits(storage, tokenizer, task, DataSources(**given), max_length)


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
    assert labels_of(data) == ["argparse", "random", "statistics"]
    assert data.validation.digest == data.test.digest
    assert data.train.lengths.max() == 32
    assert data.train.lengths.sum() == len(data.train.inputs["input_ids"].values)
    first = inputs(data.train)[0]
    assert (first[0], first[-1]) == (2, 3)


def prepared(
    storage: Storage, tokenizer: Any, path: Path, rows: list[dict[str, str]], **changes: Any
) -> PreparedData:
    return prepare(
        storage, tokenizer, train=str(write_csv(path / "rows.csv", rows)), **SETTINGS | changes
    )


def inputs(examples: Examples) -> list[tuple[int, ...]]:
    column = examples.inputs["input_ids"]
    assert column.offsets is not None
    pairs = itertools.pairwise(column.offsets)
    return [tuple(column.values[start:end].tolist()) for start, end in pairs]


def test_validation_is_held_out_of_train(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 10)} for i in range(100)]
    data = prepared(local_storage, tiny_tokenizer, tmp_path, rows)
    # sha256 of "validation", a line feed and the text is below 0.1 for eight of the hundred.
    assert (len(data.train), len(data.validation), data.test) == (92, 8, None)
    assert labels_of(data) == [str(i) for i in range(10)]
    validated = [f"word {i}" for i in (3, 43, 48, 69, 70, 94, 97, 99)]
    assert inputs(data.validation) == [tuple(tiny_tokenizer(t)["input_ids"]) for t in validated]


def test_rows_that_come_move_none(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 10)} for i in range(300)]
    some = prepared(local_storage, tiny_tokenizer, tmp_path, rows[100:])
    more = prepared(local_storage, tiny_tokenizer, tmp_path, rows)
    assert len(some.train) + len(some.validation) == 200
    assert set(inputs(some.validation)) < set(inputs(more.validation))
    assert set(inputs(some.train)) < set(inputs(more.train))


@pytest.mark.parametrize("task", ["text-classification", "text-ordinal", "text-regression"])
def test_a_task_pads_as_the_tokenizer_does_without_saying_so(
    task: str, local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.sep_token
    assert tokenizer.pad_token_id != tiny_tokenizer.pad_token_id
    rows = [{"text": f"word {i} " * (1 + i % 3), "label": str(i % 5)} for i in range(100)]
    data = prepared(local_storage, tokenizer, tmp_path, rows, task=task, validation=0.3)
    assert data.task.pad_token_id == tokenizer.pad_token_id
    ids = np.argsort(data.train.lengths)[[0, -1]]
    batch, _ = data.task.collate(data.train, ids, torch.device("cpu"))
    assert batch["input_ids"][0, -1] == tokenizer.pad_token_id
    again = prepared(local_storage, tiny_tokenizer, tmp_path, rows, task=task, validation=0.3)
    assert again.digest != data.digest


def test_a_trained_models_task_pads_as_its_tokenizer_does(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.pad_token = tokenizer.sep_token
    config = transformers.BertConfig(
        num_labels=2, architectures=["BertForSequenceClassification"], id2label={0: "a", 1: "b"}
    )
    task = task_of_model("m", config, tokenizer, ours=False)
    assert task.pad_token_id == tokenizer.pad_token_id


def test_a_text_is_on_one_side_whatever_its_labels(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"word {i}", "label": label} for label in "ab" for i in range(50)]
    data = prepared(local_storage, tiny_tokenizer, tmp_path, rows)
    assert not set(inputs(data.train)) & set(inputs(data.validation))
    assert len(data.validation) == 2 * len(set(inputs(data.validation)))


def test_a_group_is_on_one_side(
    local_storage: Storage,
    tiny_tokenizer: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 2), "of": str(i // 7)} for i in range(210)]
    data = prepared(local_storage, tiny_tokenizer, tmp_path, rows, group="of", validation=0.2)
    held = held_out([row["of"] for row in rows], 0.2)
    validated = [row["text"] for row, is_held in zip(rows, held, strict=True) if is_held]
    assert inputs(data.validation) == [tuple(tiny_tokenizer(t)["input_ids"]) for t in validated]
    assert len(validated) % 7 == 0
    assert "both trained and validated on" not in caplog.text
    twice = [*rows, {"text": validated[0], "label": "0", "of": rows[int(held.argmin())]["of"]}]
    prepared(local_storage, tiny_tokenizer, tmp_path, twice, group="of", validation=0.2)
    assert "1 texts are both trained and validated on" in caplog.text


def test_rows_of_another_source_that_are_trained_on_are_said(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 2)} for i in range(40)]
    new = [{"text": f"new {i}", "label": str(i % 2)} for i in range(10)]
    test = str(write_csv(tmp_path / "test.csv", new))
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, test=test)
    assert "stand in data.train" not in caplog.text
    write_csv(tmp_path / "test.csv", [*new, rows[3], rows[3], rows[4] | {"label": "1"}])
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, test=test)
    assert "3 of 13 rows of data.test stand in data.train as well, by their inputs" in caplog.text
    train = str(tmp_path / "rows.csv")
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, validation=train)
    assert "40 of 40 rows of data.validation stand in data.train as well" in caplog.text


def test_the_training_rows_are_gone_through_once_for_all_splits_and_of_folds_once(
    local_storage: Storage,
    tiny_tokenizer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = [{"text": f"word {i}", "label": str(i % 2)} for i in range(40)]
    some, other = (str(write_csv(tmp_path / f"{n}.csv", rows[n:])) for n in (30, 35))
    seen: list[str] = []
    identities, digests = Rows._identities, stored_tokens.row_digests

    def identified(read: Rows) -> Any:
        seen.append(read.source)
        return identities(read)

    def digested(read: Rows) -> Any:
        seen.append(f"digests of {read.source}")
        return digests(read)

    monkeypatch.setattr(Rows, "_identities", identified)
    monkeypatch.setattr(stored_tokens, "row_digests", digested)
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, validation=some, test=other)
    assert "10 of 10 rows of data.validation stand in data.train" in caplog.text
    assert "5 of 5 rows of data.test stand in data.train" in caplog.text
    train = str(tmp_path / "rows.csv")
    assert (seen.count(train), seen.count(f"digests of {train}")) == (1, 1)

    seen.clear()
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, test=other, fold=Fold(1, 2))
    assert [one for one in seen if one.startswith("digests")] == [
        f"digests of {train}",
        f"digests of {other}",
    ]


def test_one_text_or_one_group_cannot_be_split(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": "t", "label": label, "of": "g"} for label in "xyxy"]
    with pytest.raises(DataError, match="4 rows with 1 different text are too few"):
        prepared(local_storage, tiny_tokenizer, tmp_path, rows)
    rows = [{"text": f"t{i}", "label": label, "of": "g"} for i, label in enumerate("xyxy")]
    with pytest.raises(DataError, match="4 rows with 1 different group are too few"):
        prepared(local_storage, tiny_tokenizer, tmp_path, rows, group="of")
    two = prepared(local_storage, tiny_tokenizer, tmp_path, rows[:2], validation=1e-9)
    assert (len(two.train), len(two.validation)) == (1, 1)


def test_prepared_once_and_opened_afterwards(
    local_storage: Storage, tiny_tokenizer: Any, text_files: dict[str, Path]
) -> None:
    one = prepare(local_storage, tiny_tokenizer, train=str(text_files["train"]), **SETTINGS)
    before = local_storage.usage.puts
    two = prepare(local_storage, tiny_tokenizer, train=str(text_files["train"]), **SETTINGS)
    assert local_storage.usage.puts == before
    assert two.digest == one.digest
    assert inputs(open_prepared(local_storage, one.digest).train) == inputs(two.train)
    shorter = prepare(
        local_storage,
        tiny_tokenizer,
        train=str(text_files["train"]),
        **SETTINGS | {"max_length": 16},
    )
    assert shorter.digest != one.digest


@pytest.mark.parametrize("damage", ["cut short", "one bit", "missing", "no JSON", "no splits"])
@pytest.mark.parametrize("name", ["train.safetensors", "validation.safetensors", "manifest.json"])
def test_damaged_tokens_are_made_again(
    name: str, damage: str, local_storage: Storage, tiny_tokenizer: Any, text_files: dict[str, Path]
) -> None:
    given = {"train": str(text_files["train"]), **SETTINGS}
    sound = prepare(local_storage, tiny_tokenizer, **given)
    key = f"data/{sound.digest[:32]}/{name}"
    content = local_storage.get(key)
    local_storage.put(
        key,
        {
            "cut short": content[:100],
            "one bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
            "missing": content,
            "no JSON": b"\xff{",
            "no splits": b"[]",
        }[damage],
    )
    if damage == "missing":
        local_storage.delete(key)
    with pytest.raises(
        IntegrityError, match=r"data/\w+/\S+ is (damaged|missing)\. Start the"
    ) as raised:
        open_prepared(local_storage, sound.digest)
    assert key in str(raised.value)
    again = prepare(local_storage, tiny_tokenizer, **given)
    assert again.digest == sound.digest
    assert inputs(again.train) == inputs(sound.train)
    assert local_storage.get(key) == content


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
        name: write_csv(
            tmp_path / f"{name}.csv",
            [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)],
        )
        for name, labels in (("train", train * 5 if len(train) > 1 else train), ("test", test))
    }
    with pytest.raises(DataError, match=message):
        prepare(
            local_storage,
            tiny_tokenizer,
            train=str(paths["train"]),
            **SETTINGS | {"test": str(paths["test"])},
        )


@pytest.mark.parametrize(
    ("task", "key", "read"),
    [
        ("text-classification", "choices", "data.text, data.label"),
        ("text-classification", "image", "data.text, data.label"),
        ("token-classification", "text_pair", "data.text, data.label"),
        ("image-classification", "text", "data.image, data.label"),
        ("text-regression", "choices", "data.text, data.text_pair, data.label"),
    ],
)
def test_a_column_that_the_task_does_not_read_is_no_silent_mistake(
    local_storage: Storage,
    tiny_tokenizer: Any,
    text_files: dict[str, Path],
    task: str,
    key: str,
    read: str,
) -> None:
    columns = {"text_pair": "text"} if "text_pair" in read else {}
    with pytest.raises(ConfigError) as caught:
        prepare(
            local_storage,
            tiny_tokenizer,
            train=str(text_files["train"]),
            task=task,
            columns={"text_pair": None, **columns, key: "label"},
            **SETTINGS,
        )
    assert str(caught.value) == (
        f"data.{key}: task {task} reads no such column, but those of {read}. Leave 'label' out, "
        "or set task to the one that is meant"
    )


def labels_of(data: PreparedData) -> list[str]:
    assert data.task.class_names is not None
    return data.task.class_names


def rows_of(labels: list[str]) -> list[dict[str, str]]:
    return [{"text": f"word {i}", "label": label} for i, label in enumerate(labels)]


def test_labels_are_the_same_text_in_every_split(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    labels = ["TRUE", "FALSE", "UNKNOWN", "01", "1A", "02"]
    test = write_csv(tmp_path / "test.csv", rows_of(["TRUE", "FALSE", "02", "01"]))
    data = prepared(local_storage, tiny_tokenizer, tmp_path, rows_of(labels * 5), test=str(test))
    assert labels_of(data) == sorted(labels)
    assert data.test is not None
    assert [labels_of(data)[i] for i in data.test.targets["labels"].values] == [
        "TRUE",
        "FALSE",
        "02",
        "01",
    ]


@pytest.mark.parametrize("labels", [["--1", "2"], ["\u00b2", "2"], ["9" * 5000, "2"]])
def test_labels_that_only_look_like_integers(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path, labels: list[str]
) -> None:
    data = prepared(local_storage, tiny_tokenizer, tmp_path, rows_of(labels * 5))
    assert labels_of(data) == sorted(labels)


def test_labels_that_look_alike_are_said(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared(local_storage, tiny_tokenizer, tmp_path, rows_of(["Warm", "warm", "cold"] * 5))
    assert "the labels 'Warm' and 'warm' look alike and are two classes" in caplog.text
    test = write_csv(tmp_path / "test.csv", rows_of(["1", "0.0"]))
    with pytest.raises(DataError) as caught:
        prepared(local_storage, tiny_tokenizer, tmp_path, rows_of(["0", "1"] * 5), test=str(test))
    assert (
        "never shows: '0.0'. Known are '0', '1'. The first stands in line 3. Labels are text: "
        "'0.0' is not '0'."
    ) in str(caught.value)


def test_a_class_that_the_limit_loses_is_said_with_its_key(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(["x", "y"] * 20)
    # The sample goes by the text's hash: the row whose hash is the largest is in none.
    last = next(i for i in range(40) if i not in sampled([row["text"] for row in rows], 39))
    rows[last]["label"] = "rare"
    prepared(local_storage, tiny_tokenizer, tmp_path, rows, limit=30)
    assert "data.limit leaves no row of 'rare' to train on" in caplog.text
    test = write_csv(tmp_path / "test.csv", rows_of(["x", "rare"]))
    with pytest.raises(DataError, match=r"data\.limit leaves 'rare' out of it: raise data\.limit"):
        prepared(local_storage, tiny_tokenizer, tmp_path, rows, limit=30, test=str(test))
    one = [row | {"label": "x"} for row in rows]
    one[last]["label"] = "rare"
    with pytest.raises(DataError, match=r"one class only: 'x': data\.limit leaves 'rare' out"):
        prepared(local_storage, tiny_tokenizer, tmp_path, one, limit=30)


def test_the_encoding_is_of_every_split(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    content = "text,label\ncaf\xe9 one,a\ncaf\xe9 two,b\n"
    path = tmp_path / "latin.csv"
    path.write_bytes(content.encode("latin-1"))
    splits = {"validation": str(path), "test": str(path)}
    data = prepare(
        local_storage,
        tiny_tokenizer,
        train=str(path),
        encoding="latin-1",
        **SETTINGS | splits,
    )
    texts = ["caf\xe9 one", "caf\xe9 two"]
    assert data.test is not None
    for examples in (data.train, data.validation, data.test):
        assert inputs(examples) == [tuple(tiny_tokenizer(text)["input_ids"]) for text in texts]
