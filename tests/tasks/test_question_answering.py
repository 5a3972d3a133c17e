"""Answers in a context: windows, targets, the answer of a row, SQuAD 2.0's scores; learning."""

import json
import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torchmetrics.functional.text import squad

from afcore.config import parse_config
from afcore.data.builtin.questions import question_rows
from afcore.data.examples import Column, Examples
from afcore.data.formats import Number
from afcore.data.sources import Rows, load_rows
from afcore.data.table import Places, Table
from afcore.errors import DataError
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.run import begin_run, run_lease
from afcore.storage.objects import Storage
from afcore.tasks.answer_spans import best_span, span_of
from afcore.tasks.answer_texts import read_answers
from afcore.tasks.question_answering import QuestionAnswering
from afcore.tasks.squad_scores import exact_match, token_f1
from afcore.tracking.tracker import Tracker
from tests.conftest import write_csv

TASK = QuestionAnswering(pad_token_id=0, may_be_blank=True)
CONTEXT = "the value of a list is the random name of a parser object in the file of the mean value"


def examples_of(tokenizer: Any, answers: list[Any], max_length: int = 24) -> Examples:
    count = len(answers)
    inputs = {"text": ["what parses?"] * count, "text_pair": [CONTEXT] * count}
    return TASK.examples(tokenizer, Rows("here", inputs, {"label": answers}), max_length)


def text_of(reference: Column, row: int) -> str:
    return reference.row(row).tobytes().decode("utf-32-le")


def test_windows_hold_the_whole_context_and_the_answer(tiny_tokenizer: Any) -> None:
    examples = examples_of(tiny_tokenizer, [[("parser object", None)], []])
    assert examples.rows is not None
    assert examples.num_rows == 2
    half = len(examples) // 2
    assert half >= 2
    assert examples.rows.tolist() == [0] * half + [1] * half
    assert int(examples.lengths.max()) <= 24
    parts = [text_of(examples.references["text"], i) for i in range(half)]
    assert CONTEXT.startswith(parts[0])
    assert CONTEXT.endswith(parts[-1])
    assert {word for part in parts for word in part.split()} == set(CONTEXT.split())
    starts, ends = (examples.targets[f"{name}_positions"].values for name in ("start", "end"))
    with_answer = np.flatnonzero(starts[:half] > 0)
    assert len(with_answer) >= 1
    for window in with_answer:
        characters = examples.references["characters"].row(window)
        begin, end = characters[starts[window], 0], characters[ends[window], 1]
        assert parts[window][begin:end] == "parser object"
    assert not starts[half:].any(), "no answer: [CLS]"
    again = Examples.decode(b"".join(examples.pieces()))
    for name, column in examples.targets.items():
        np.testing.assert_array_equal(again.targets[name].values, column.values)


def test_the_best_span_of_all_windows_is_the_answer(tiny_tokenizer: Any) -> None:
    examples = examples_of(tiny_tokenizer, [[("parser object", None)], [("a list", None)], []])
    starts, ends = (examples.targets[f"{name}_positions"].values for name in ("start", "end"))
    logits = np.zeros((len(examples), 24, 2), dtype=np.float32)
    windows = np.arange(len(examples))
    logits[windows, starts, 0] = logits[windows, ends, 1] = 5.0
    assert TASK.predictions(examples, logits) == ["parser object", "a list", ""]
    values = TASK.row_values(examples, logits)
    assert values["f1"].tolist() == values["exact"].tolist() == [1.0, 1.0, 1.0]
    logits[:, 0] += 6.0  # [CLS] above all
    assert TASK.predictions(examples, logits) == ["", "", ""]
    assert TASK.row_values(examples, logits)["f1"].tolist() == [0.0, 0.0, 1.0]
    always = QuestionAnswering(pad_token_id=0, may_be_blank=False)
    assert always.predictions(examples, logits)[:2] == ["parser object", "a list"]


def test_spans() -> None:
    characters = np.asarray([[-1, -1], [0, 3], [4, 6], [6, 9], [-1, -1]], dtype=np.int32)
    assert span_of(characters, 4, 9) == (2, 3)
    assert span_of(characters, 4, 12) is None
    draw = np.random.default_rng(0)
    for most in (1, 2, 9):
        logits = draw.normal(size=(7, 2)).astype(np.float32)
        pairs = [(i, j) for i in (1, 2, 3) for j in (1, 2, 3) if i <= j < i + most]
        expected = max(pairs, key=lambda pair: logits[pair[0], 0] + logits[pair[1], 1])
        assert best_span(logits, characters, most)[1:] == expected


@pytest.mark.parametrize(
    ("answers", "given", "exact", "f1"),
    [
        (["The parser!"], "parser", 1.0, 1.0),
        (["a parser of lists"], "parser lists", 0.0, 0.8),
        (["parser", "list of names"], "list of a name", 0.0, 2 / 3),
        ([], "", 1.0, 1.0),
        ([""], "", 1.0, 1.0),
        ([], "parser", 0.0, 0.0),
        (["parser"], "", 0.0, 0.0),
        (["the"], "", 1.0, 1.0),  # nothing is left of it
        (["x-ray"], "xray", 1.0, 1.0),
        (["b b c"], "b c c", 0.0, 2 / 3),
    ],
)
def test_scores_of_squad(answers: list[str], given: str, exact: float, f1: float) -> None:
    assert exact_match(answers, given) == exact
    assert token_f1(answers, given) == pytest.approx(f1)


def test_scores_are_those_of_torchmetrics_where_there_are_answers() -> None:
    draw = random.Random(0)
    words = ["the", "Parser", "list,", "of", "an", "x-1", "name."]
    for _ in range(50):
        answers = [" ".join([*draw.choices(words, k=draw.randint(1, 4)), "k"]) for _ in range(2)]
        given = " ".join([*draw.choices(words, k=draw.randint(1, 4)), "k"])
        target = {"answers": {"text": answers, "answer_start": [0, 0]}, "id": "1"}
        theirs = squad([{"prediction_text": given, "id": "1"}], [target])
        assert 100 * exact_match(answers, given) == pytest.approx(float(theirs["exact_match"]))
        assert 100 * token_f1(answers, given) == pytest.approx(float(theirs["f1"]), abs=1e-4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["a", "b"], "answer_start": [0, 4]}, [("a", 0), ("b", 4)]),
        ({"text": [], "answer_start": []}, []),
        ([{"text": "a", "answer_start": 3}], [("a", 3)]),
        (["a", "b"], [("a", None), ("b", None)]),
        ("a b", [("a b", None)]),
        ('{"text": ["a"], "answer_start": [2]}', [("a", 2)]),
        ("{'text': [\"it's\"], 'answer_start': [2]}", [("it's", 2)]),
        ("", []),
        (None, []),
    ],
)
def test_answers_are_read(value: Any, expected: list[Any]) -> None:
    table = Table(["answers"], {"answers": [value]}, Places("row", [0]))
    assert read_answers("here", "label", "answers", table) == [expected]


def test_answers_that_are_numbers_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    values = ["a", Number("1999"), {"text": [Number("7"), "b"]}, None]
    table = Table(["answers"], {"answers": values}, Places("line", [2, 3, 5, 6]))
    found = read_answers("here", "label", "answers", table)
    assert found == [[("a", None)], [("1999", None)], [("7", None), ("b", None)], []]
    (said,) = caplog.messages
    assert "column 'answers' is a number in 2 of 4 rows (the first is line 3, 1999)" in said


@pytest.mark.parametrize(
    "value",
    [
        {"text": ["a"], "answer_start": []},
        {"answer": "a"},
        "{a",
        "{'text': array(['a'], dtype=object)}",
    ],
)
def test_other_answers_are_refused(value: Any) -> None:
    table = Table(["answers"], {"answers": [value]}, Places("row", [0]))
    with pytest.raises(DataError, match=r"column 'answers' holds .* in row 0, counted from 0"):
        read_answers("here", "label", "answers", table)


def test_losses_are_those_of_transformers(tiny_bert: Path, tiny_tokenizer: Any) -> None:
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tiny_bert).eval()
    examples = examples_of(tiny_tokenizer, [[("parser object", None)], []])
    inputs, targets = TASK.collate(examples, np.arange(len(examples)), torch.device("cpu"))
    with torch.no_grad():
        whole = model(**inputs, **targets)
    outputs = torch.stack([whole.start_logits, whole.end_logits], -1)
    torch.testing.assert_close(TASK.loss(outputs, targets), whole.loss)


def test_chance_is_the_entropy_of_the_positions(tiny_tokenizer: Any) -> None:
    examples = examples_of(tiny_tokenizer, [[("parser object", None)], []], 64)
    assert len(examples) == 2
    assert TASK.chance_loss(examples) == pytest.approx(np.log(2))


def test_a_long_question_is_cut_and_told(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = Rows("here", {"text": ["list of " * 40, "what?"], "text_pair": [CONTEXT] * 2})
    with caplog.at_level(logging.WARNING):
        examples = TASK.examples(tiny_tokenizer, rows, 32)
    assert "1 of 2 questions are cut at 16 tokens" in caplog.text
    assert examples.num_rows == 2
    assert len(TASK.predictions(examples, np.zeros((len(examples), 32, 2)))) == 2


def test_what_cannot_be_learned_from_is_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="a question and its context need 16 tokens"):
        examples_of(tiny_tokenizer, [[]], 8)
    rows = Rows("here", {"text": ["a"], "text_pair": ["b"]}, {"label": [[]]})
    with pytest.raises(DataError, match="no question has an answer"):
        QuestionAnswering.learn({"train": rows}, rows, tiny_tokenizer)


def test_a_published_model_is_read_from_mlflow(
    tiny_bert: Path, tiny_tokenizer: Any, tiny_config: dict[str, Any]
) -> None:
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(tiny_bert)
    tracker = Tracker(tiny_config["tracking"]["uri"], "test")
    run_id = tracker.begin("t", "n")
    tracker.log_model(run_id, model, tiny_tokenizer, TASK)
    read = tracker.load_model(run_id, TASK.auto_class)
    assert torch.equal(read.qa_outputs.weight, model.qa_outputs.weight)


def test_the_default_policy_learns_to_find_a_word(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    """With random weights. A model that always says that there is no answer has an F1 of a half."""
    draw = random.Random(0)
    words = ["list", "of", "the", "value", "name"]
    rows = []
    for number in range(240):
        context = draw.choices(words, k=8)
        answer = "parser" if number % 2 else ""
        if answer:
            context[draw.randrange(8)] = answer
        rows.append({"question": "what?", "context": " ".join(context), "answers": answer})
    tree = tiny_config | {"task": "question-answering"}
    tree["data"] = {"train": str(write_csv(tmp_path / "train.csv", rows)), "max_length": 32}
    tree["freezing"] = {}
    tree["training"] |= {"epochs": 4, "learning_rate": 5e-3, "stop": "never"}
    config = parse_config(tree, source="test")
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage), fresh=True)
    for epoch in range(1, 5):
        with run_lease(storage, run.record.run_id) as lease:
            report = run_epoch(run, epoch, lease.number)
    assert report.validation["f1"] > 0.8


def test_rows_of_the_built_in_data_set() -> None:
    train, test = question_rows("train"), question_rows("test")
    assert len(train) > 1000
    assert not {row["context"] for row in train} & {row["context"] for row in test}
    blank = 0
    for row in train:
        texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
        blank += not texts
        for text, start in zip(texts, starts, strict=True):
            assert row["context"][start:].startswith(text)
    assert 0.15 < blank / len(train) < 0.4
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        question_rows("dev")


def test_nested_files_of_squad_are_told(tmp_path: Path) -> None:
    path = tmp_path / "train-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "a", "paragraphs": []}]}))
    fields = QuestionAnswering.fields(dict(QuestionAnswering.columns))
    message = r"no column 'question', only version, data\. .* as SQuAD's own files do\? Then write"
    with pytest.raises(DataError, match=message):
        load_rows(str(path), "train", fields)
