"""Labels of words: which tokens are asked for, what is scored, what a cut does; a model learns."""

import logging
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import transformers
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from afcore.config import parse_config
from afcore.data.builtin.parameters import parameter_rows
from afcore.data.examples import Examples
from afcore.data.sources import Rows
from afcore.errors import DataError
from afcore.runs.epoch import run_epoch
from afcore.runs.identify import identify_run
from afcore.runs.run import begin_run, run_lease
from afcore.storage.objects import Storage
from afcore.tasks.answers import Answers
from afcore.tasks.known_tasks import find_score
from afcore.tasks.task import NO_ANSWER
from afcore.tasks.token_classification import TokenClassification
from afcore.tracking.tracker import Tracker
from tests.conftest import stdlib_rows

NAMES = ["B-X", "I-X", "O"]
TASK = TokenClassification(pad_token_id=0, label_names=NAMES, unread="O")


def rows_of(words: list[str], labels: list[str] | None = None) -> Rows:
    targets = {} if labels is None else {"label": [row.split() for row in labels]}
    return Rows("here", {"text": [row.split() for row in words]}, targets)


def test_labels_stand_at_the_first_token_of_each_word(tiny_tokenizer: Any) -> None:
    rows = rows_of(["parser zzqx argument"], ["B-X I-X O"])
    examples = TASK.examples(tiny_tokenizer, rows, 32)
    tokens = tiny_tokenizer.convert_ids_to_tokens(examples.inputs["input_ids"].values.tolist())
    labels = examples.targets["labels"].values.tolist()
    assert tokens[0] == "[CLS]"
    firsts = [i for i, token in enumerate(tokens) if not token.startswith("##") and token[0] != "["]
    assert len(firsts) == 3
    assert len(tokens) > 5, "a word of several tokens"
    assert [labels[i] for i in firsts] == [0, 1, 2]
    assert {labels[i] for i in range(len(tokens)) if i not in firsts} == {NO_ANSWER}
    assert TASK.weights(examples).tolist() == [3]  # type: ignore[union-attr]


def byte_tokenizer() -> Any:
    """As GPT-2's: a token begins with the space before its word, and its offsets too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=350, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([row["text"] for row in stdlib_rows()[:50]], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="a")


def test_tokens_that_begin_with_a_space_are_of_the_word_behind_it() -> None:
    tokenizer, words = byte_tokenizer(), ["the", "résumé", "of", "(", "parsers", ")"]
    examples = TASK.examples(tokenizer, Rows("here", {"text": [words]}), 64)
    text = " ".join(words)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    positions = examples.references["positions"].values
    begun = [text[offsets[p][0] :].strip() for p in positions]
    assert [one.split()[0] for one in begun] == words
    assert len(set(positions.tolist())) == len(words)


def test_scores_are_those_of_seqeval() -> None:
    draw = np.random.default_rng(0)
    rows = [[NAMES[i] for i in draw.integers(0, 3, size)] for size in (5, 1, 9, 7)]
    given = [[NAMES[i] for i in draw.integers(0, 3, len(row))] for row in rows]
    examples, answers = _answered(rows, given)
    scores = Answers.of(TASK, examples, answers, np.ones(4, dtype=np.float32)).scores()
    assert 0 < scores["f1"] < 1
    assert scores == pytest.approx(
        {
            "f1": f1_score(rows, given),
            "precision": precision_score(rows, given),
            "recall": recall_score(rows, given),
            "accuracy": accuracy_score(rows, given),
            "loss": 1.0,
        }
    )
    assert TASK.predictions(examples, answers) == [" ".join(row) for row in given]


def _answered(rows: list[list[str]], given: list[list[str]]) -> Any:
    """A token a word."""
    from afcore.data.examples import Column, Examples

    labels = Column.of([[NAMES.index(one) for one in row] for row in rows])
    positions = Column.of([list(range(len(row))) for row in rows])
    answers = np.full((len(rows), 9), NO_ANSWER)
    for row, some in zip(answers, given, strict=True):
        row[: len(some)] = [NAMES.index(one) for one in some]
    references = {"positions": positions, "word_labels": labels}
    inputs = {"input_ids": labels}
    return Examples(inputs, {"labels": labels}, references=references), answers


def test_words_that_are_cut_off_are_told_answered_and_scored(
    tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(["a list of the value", "a"], ["O O O B-X I-X", "O"])
    with caplog.at_level(logging.WARNING):
        examples = TASK.examples(tiny_tokenizer, rows, 5)
    assert "2 of 6 words, in 1 of 2 rows, are not read" in caplog.text
    answers = np.full((2, 5), 2)
    assert TASK.predictions(examples, answers) == ["O O O O O", "O"]
    values = TASK.row_values(examples, answers)
    assert values["expected"].tolist() == [1, 0], "an entity that is cut off is missed"
    assert values["words_right"].tolist() == [3, 1]
    assert TASK.weights(examples).tolist() == [3, 1]  # type: ignore[union-attr]


def test_losses_are_means_over_words() -> None:
    outputs = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[NO_ANSWER, 0, 1, 2], [NO_ANSWER, 2, NO_ANSWER, NO_ANSWER]])
    each = -outputs.log_softmax(-1)
    by_hand = [(each[0, 1, 0] + each[0, 2, 1] + each[0, 3, 2]) / 3, each[1, 1, 2]]
    losses = TASK.losses(outputs, {"labels": labels})
    torch.testing.assert_close(losses, torch.stack(by_hand))
    whole = TASK.loss(outputs, {"labels": labels})
    torch.testing.assert_close(whole, (3 * by_hand[0] + by_hand[1]) / 4)


def test_chance_is_the_entropy_of_the_words_labels(tiny_tokenizer: Any) -> None:
    examples = TASK.examples(tiny_tokenizer, rows_of(["a b", "c d"], ["O O", "O B-X"]), 16)
    expected = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert TASK.chance_loss(examples) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("names", "score", "told"),
    [
        (["0", "1", "2"], "f1", True),
        (["0", "1", "2"], "accuracy", False),
        (["0", "B-X", "I-X"], "precision", True),
        (["O", "noun"], "f1", False),
        (["B-X", "I-X"], "f1", False),
        (NAMES, "recall", False),
    ],
)
def test_labels_of_which_none_is_outside_are_told(names: list[str], score: str, told: bool) -> None:
    task = TASK.model_copy(update={"label_names": names, "unread": names[0]})
    found = task.warnings(Examples({}), find_score("token-classification", score))
    assert [text.startswith("no label is O, which") for text in found] == [True] * told
    assert all(f"of {names[0]!r} too. Write O for the label" in text for text in found)


def test_a_label_of_two_words_is_refused(tiny_tokenizer: Any) -> None:
    rows = Rows("here", {"text": [["a"]]}, {"label": [["B X"]]})
    with pytest.raises(DataError, match="the label 'B X' in row 0, counted from 0 is no word"):
        TASK.examples(tiny_tokenizer, rows, 16)


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        pad_token_id = 0

    rows = rows_of(["a b"], ["O B-X"])
    with pytest.raises(DataError, match="needs a tokenizer that knows where its tokens stand"):
        TokenClassification.learn({"train": rows}, rows, Slow())


def test_a_published_model_answers_texts_without_entities(
    tiny_bert: Path, tiny_config: dict[str, Any]
) -> None:
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        tiny_bert, **TASK.head_settings
    )
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([-9.0, -9.0, 9.0]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    uri = tiny_config["tracking"]["uri"]
    tracker = Tracker(uri, "test")
    logged = tracker.log_model(tracker.begin("t", "n"), model, tokenizer, TASK)
    mlflow.set_tracking_uri(uri)
    assert mlflow.pyfunc.load_model(logged).predict(["a list"]) == ["O"]


def test_the_default_policy_learns_which_words_are_parameters(
    tiny_config: dict[str, Any], tmp_path: Path
) -> None:
    """With random weights; a model that always answers O has an F1 of 0."""
    tree = tiny_config | {"task": "token-classification"}
    tree["data"] = {"train": "parameters", "max_length": 64, "limit": 300}
    tree["freezing"] = {}
    tree["training"] |= {"epochs": 3, "learning_rate": 5e-3, "stop": "never"}
    config = parse_config(tree, source="test")
    storage = Storage(config.store)
    run = begin_run(storage, identify_run(config, storage), fresh=True)
    for epoch in (1, 2, 3):
        with run_lease(storage, run.record.run_id) as lease:
            report = run_epoch(run, epoch, lease.number)
    assert report.validation["f1"] > 0.3


def test_rows_of_the_built_in_data_set() -> None:
    train, test = parameter_rows("train"), parameter_rows("test")
    assert len(train) > 500
    assert 0.15 < len(test) / (len(train) + len(test)) < 0.35
    for row in train[:200]:
        assert len(row["tokens"]) == len(row["labels"])
    assert {one for row in train for one in row["labels"]} == {"B-NAME", "B-TYPE", "I-TYPE", "O"}
    with pytest.raises(DataError, match="train and test, not 'dev'"):
        parameter_rows("dev")
