"""A champion on rows some of whose labels it does not know."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from afcore.data.sources import Rows
from afcore.retraining.champion import ChampionAnswers, answers_of_champion
from afcore.tasks.text_classification import TextClassification
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
