"""Whatever changes the tokens changes the name; a tokenizer that knows no word is said."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from afcore.data.tokenizer_checks import check_known, tokenizer_digest
from afcore.errors import DataError
from afcore.model.pretrained import load_tokenizer
from afcore.storage.objects import Storage
from tests.conftest import write_csv
from tests.tasks.test_prepare import SETTINGS, inputs, prepare
from tests.training_setup import labelled

TEXTS = [f"the word Parser {i} is LONG" for i in range(200)]


def _config(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "tokenizer_config.json", lambda tree: tree | settings)


def _rules(**settings: Any) -> Callable[[Path], None]:
    return lambda folder: _edit(folder / "tokenizer.json", lambda tree: tree | settings)


def _edit(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def _added_token(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["Parser 1"])
    tokenizer.save_pretrained(folder)


def _cased(folder: Path) -> None:
    def change(tree: dict[str, Any]) -> dict[str, Any]:
        return tree | {"normalizer": tree["normalizer"] | {"lowercase": False}}

    _edit(folder / "tokenizer.json", change)


def _no_end(folder: Path) -> None:
    def change(tree: dict[str, Any]) -> dict[str, Any]:
        template = tree["post_processor"]
        return tree | {"post_processor": template | {"single": template["single"][:2]}}

    _edit(folder / "tokenizer.json", change)


def _other_word(folder: Path) -> None:
    def change(tree: dict[str, Any]) -> dict[str, Any]:
        vocabulary = tree["model"]["vocab"]
        return tree | {"model": tree["model"] | {"vocab": vocabulary | {"word": len(vocabulary)}}}

    _edit(folder / "tokenizer.json", change)


CHANGES = {
    "cut on the left": _config(truncation_side="left"),
    "special tokens are split": _config(split_special_tokens=True),
    "another padding token": _config(pad_token="[MASK]"),
    "a template for chats": _config(chat_template="{{ messages }}"),
    "a token was added": _added_token,
    "case is kept": _cased,
    "words are cut at spaces only": _rules(pre_tokenizer={"type": "WhitespaceSplit"}),
    "nothing is put at the end": _no_end,
    "a word of the vocabulary": _other_word,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_of_a_fast_tokenizer_is_in_its_name(
    change: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    names = []
    for number in range(3):
        folder = tmp_path / str(number)
        tiny_tokenizer.save_pretrained(folder)
        transformers.BertConfig().save_pretrained(folder)
        if number == 2:
            CHANGES[change](folder)
        names.append(tokenizer_digest(load_tokenizer(str(folder)), TEXTS, 8))
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    "settings", [{"truncation_side": "left"}, {"extra_ids": 7}, {"extra_special_tokens": ["word"]}]
)
def test_a_setting_of_a_slow_tokenizer_is_in_its_name(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    names = []
    for number, given in enumerate(({}, {}, settings)):
        folder = tmp_path / str(number)
        transformers.ByT5Tokenizer(**given).save_pretrained(folder)
        transformers.T5Config().save_pretrained(folder)
        tokenizer = load_tokenizer(str(folder))
        assert not tokenizer.is_fast
        names.append(tokenizer_digest(tokenizer, TEXTS, 8))
    assert names[0] == names[1] != names[2]


def test_using_a_tokenizer_does_not_rename_it(tiny_tokenizer: Any) -> None:
    before = tokenizer_digest(tiny_tokenizer, TEXTS, 8)
    tiny_tokenizer(TEXTS, truncation=True, max_length=5, padding="max_length")
    assert tokenizer_digest(tiny_tokenizer, TEXTS, 8) == before


def test_what_a_class_does_but_does_not_save_shows_in_the_sample(tiny_tokenizer: Any) -> None:
    class Silent(type(tiny_tokenizer)):  # type: ignore[misc]
        shift = 0

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            given = super().__call__(*args, **kwargs)
            given["input_ids"] = [[i + self.shift for i in ids] for ids in given["input_ids"]]
            return given

    tokenizer = Silent(tokenizer_object=tiny_tokenizer.backend_tokenizer, unk_token="[UNK]")
    before = tokenizer_digest(tokenizer, TEXTS, 8)
    tokenizer.shift = 1
    assert tokenizer_digest(tokenizer, TEXTS, 8) != before


def test_rows_that_are_cut_on_the_other_side_are_prepared_anew(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"{word} " + "word " * 40 + word, "label": word[0]} for word in ("ab", "cd")]
    rows = [row | {"text": f"{row['text']} {i}"} for i, row in enumerate(rows * 10)]
    path = str(write_csv(tmp_path / "rows.csv", rows))
    tiny_tokenizer.save_pretrained(tmp_path / "left")
    transformers.BertConfig().save_pretrained(tmp_path / "left")
    _config(truncation_side="left")(tmp_path / "left")
    left = load_tokenizer(str(tmp_path / "left"))
    settings = SETTINGS | {"max_length": 12}
    prepared = [
        prepare(local_storage, tokenizer, train=path, **settings)
        for tokenizer in (tiny_tokenizer, left, tiny_tokenizer)
    ]
    assert prepared[0].digest == prepared[2].digest != prepared[1].digest
    assert len({len(example) for data in prepared for example in inputs(data.train)}) == 1
    for data, cut in itertools.product(prepared[:1], inputs(prepared[1].train)):
        assert cut not in inputs(data.train)


@pytest.mark.parametrize(
    ("num_unknown", "expected"), [(0, None), (10, None), (30, "30 %"), (94, "94 %"), (96, "96 %")]
)
def test_unknown_words_are_counted(
    num_unknown: int, expected: str | None, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    words = [1] * num_unknown + [7] * (100 - num_unknown)
    tokens = np.asarray([token for word in words for token in (2, word, 3)], np.int32)
    given = tiny_tokenizer, labelled(tokens, np.arange(0, 301, 3), np.zeros(100)), "rows.csv"
    if num_unknown == 96:
        with pytest.raises(DataError, match=r"'rows\.csv': 96 % of the tokens are unknown"):
            check_known(*given)
        return
    check_known(*given)
    assert (expected in caplog.text) if expected else not caplog.text


def test_data_in_another_script_are_refused(
    local_storage: Storage, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    rows = [{"text": f"слово {'я' * i}", "label": str(i % 2)} for i in range(1, 40)]
    path = str(write_csv(tmp_path / "rows.csv", rows))
    for _ in range(2):  # when they were prepared before, too
        with pytest.raises(DataError, match="100 % of the tokens are unknown"):
            prepare(local_storage, tiny_tokenizer, train=path, **SETTINGS)
