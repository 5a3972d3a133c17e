"""A champion on rows some of whose labels it does not know."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.data.sources import Rows
from afcore.retraining.champion import ChampionAnswers, answers_of_champion
from afcore.retraining.row_summary import summarize
from afcore.tasks.text_classification import TextClassification
from afcore.tasks.text_ordinal import TextOrdinal
from tests.conftest import stdlib_rows

LABELS = ["argparse", "random", "statistics"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    path = tmp_path_factory.mktemp("champion")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        tiny_bert, num_labels=3, id2label=dict(enumerate(LABELS))
    )
    torch.manual_seed(3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    batch = tokenizer([r["text"] for r in stdlib_rows()[:30]], truncation=True, padding=True)
    with torch.no_grad():
        for weight in model.bert.parameters():
            weight.normal_(std=0.3)
        model.classifier.weight.normal_()
        model.classifier.bias -= model.eval()(**batch.convert_to_tensors("pt")).logits.mean(0)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def ask(folder: Path, labels: list[str]) -> ChampionAnswers:
    texts = [row["text"] for row in stdlib_rows()[: len(labels)]]
    rows = Rows("rows", {"text": texts}, {"label": labels})
    return answers_of_champion(folder, rows, "fp32")


def test_classes_are_numbered_as_the_other_model_numbers_them(folder: Path) -> None:
    labels = [row["label"] for row in stdlib_rows()[:30]]
    labels[4] = "zebra"
    asked = ask(folder, labels)
    assert asked.unknown == ["zebra"]
    task = TextClassification(label_names=["random", "zebra", "argparse"])
    theirs = np.asarray(
        [task.label_names.index(x) if x in task.label_names else -1 for x in labels]
    )
    score = task.scores[1]
    values: Any = asked.rows_of(score, task, theirs)
    own = asked.answers.values["predicted"]
    # statistics, which the other model does not have, is a number beyond its classes.
    assert [{0: 2, 1: 0, 2: 5}[i] for i in own.tolist()] == values["predicted"].tolist()
    assert len(set(own.tolist())) > 1
    assert values["labels"] is theirs


def test_an_unknown_label_is_answered_wrong_and_has_no_loss(folder: Path) -> None:
    labels = [row["label"] for row in stdlib_rows()[:30]]
    known = ask(folder, labels)
    accuracy, loss = (TextClassification.scores[i] for i in (0, -1))
    assert known.score(loss) is not None
    right = known.answers.values["right"]
    number = int(np.flatnonzero(right)[0])
    labels[number] = "zebra"
    asked = ask(folder, labels)
    assert asked.score(accuracy) == pytest.approx(right.mean() - 1 / 30)
    assert asked.score(loss) is None


def ask_of_task(
    path: Path, auto_class: Any, tiny_bert: Path, task: dict[str, Any], labels: list[Any]
) -> ChampionAnswers:
    """Of a model with a head of three outputs and random weights."""
    torch.manual_seed(3)
    model = auto_class.from_pretrained(tiny_bert, num_labels=3)
    model.config.autofreeze = {"task": {"pad_token_id": 0, **task}}
    model.save_pretrained(path)
    transformers.AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(path)
    texts: list[Any] = [row["text"] for row in stdlib_rows()[: len(labels)]]
    if isinstance(labels[0], list):
        texts = [text.split()[: len(row)] for text, row in zip(texts, labels, strict=True)]
    rows = Rows("rows", {"text": texts}, {"label": labels})
    return answers_of_champion(path, rows, "fp32")


def test_a_level_beyond_the_scale_is_as_far_away_as_it_is(tmp_path: Path, tiny_bert: Path) -> None:
    task = {"name": "text-ordinal", "lowest": 1, "highest": 4}
    levels = [1, 2, 3, 4, 0, 7]
    head = transformers.AutoModelForSequenceClassification
    asked = ask_of_task(tmp_path, head, tiny_bert, task, levels)
    assert asked.unknown == ["0", "7"]
    answered = 1 + asked.answers.values["predicted"]
    kappa, mae, accuracy, loss = asked.task.scores
    assert asked.score(mae) == pytest.approx(np.abs(levels - answered).mean())
    assert asked.score(accuracy) == pytest.approx((levels == answered).mean())
    assert asked.score(kappa) is not None
    assert asked.score(loss) is None


def test_a_tag_that_is_new_is_answered_wrong(tmp_path: Path, tiny_bert: Path) -> None:
    names = ["B-A", "I-A", "O"]
    task = {"name": "token-classification", "label_names": names, "unread": "O"}
    head = transformers.AutoModelForTokenClassification
    known = ask_of_task(tmp_path, head, tiny_bert, task, [["O", "B-A"], ["O", "O"]])
    asked = ask_of_task(tmp_path, head, tiny_bert, task, [["O", "B-B"], ["O", "O"]])
    assert (known.unknown, asked.unknown) == ([], ["B-B"])
    assert asked.answers.values["words"].tolist() == [2, 2]
    assert asked.answers.values["expected"].tolist() == [1, 0]
    assert asked.answers.values["found"].tolist() == [0, 0]


def test_levels_are_counted_as_labels_are(tiny_bert: Path) -> None:
    task = TextOrdinal(pad_token_id=0, lowest=1, highest=3)
    rows = Rows("rows", {"text": ["a", "b", "c"]}, {"label": [1, 3, 3]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    assert summarize(rows, task, tokenizer, 16).labels == {"1": 1, "3": 2}
