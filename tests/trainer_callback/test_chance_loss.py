"""The loss of chance, of what a Trainer has: a model and a data set."""

import math
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest

from afcore.trainer_callback.chance_loss import chance_loss

QUARTER = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)


def model(name: str, **config: Any) -> Any:
    settings = {"num_labels": 3, "problem_type": None} | config
    return type(name, (), {"config": SimpleNamespace(**settings)})()


@pytest.mark.parametrize("column", ["label", "labels", "label_ids"])
def test_of_plain_class_numbers_it_is_the_entropy_of_their_shares(column: str) -> None:
    rows = datasets.Dataset.from_dict({column: [0, 1, 1, 1, 2], "text": ["a"] * 5})
    rows = rows.select(range(4)).with_transform(lambda _: pytest.fail("rows are not made"))
    classifier = model("BertForSequenceClassification")
    assert chance_loss(classifier, rows) == pytest.approx(QUARTER)
    smoothed = [0.9 / 4 + 0.1 / 3, 0.9 * 3 / 4 + 0.1 / 3, 0.1 / 3]
    assert chance_loss(classifier, rows, 0.1) == pytest.approx(
        -sum(share * math.log(share) for share in smoothed)
    )
    assert chance_loss(model("OwnClassifier"), rows) == pytest.approx(QUARTER)


@pytest.mark.parametrize(
    ("name", "config", "labels", "expected"),
    [
        ("BertForSequenceClassification", {}, None, math.log(3)),
        ("XLMRobertaForSequenceClassification", {}, None, math.log(3)),
        ("XLMRobertaForMaskedLM", {}, None, 0.0),
        ("ViTForImageClassification", {"num_labels": 10}, None, math.log(10)),
        ("BertForSequenceClassification", {"num_labels": 1}, [0, 1], 0.0),
        ("BertForSequenceClassification", {"problem_type": "regression"}, [0, 1], 0.0),
        ("BertForSequenceClassification", {}, [0.5, 1.0], 0.0),
        ("BertForSequenceClassification", {}, [[0, 1], [1, 1]], 0.0),
        ("BertForSequenceClassification", {}, [-100, 1], 0.0),
        ("BertForSequenceClassification", {}, [], 0.0),
        ("BertForTokenClassification", {}, None, 0.0),
        ("GPT2LMHeadModel", {}, [0, 1], 0.0),
        ("BertForMultipleChoice", {}, None, 0.0),
    ],
)
def test_elsewhere_it_is_of_equal_shares_or_not_known(
    name: str, config: dict[str, Any], labels: Any, expected: float
) -> None:
    rows = object() if labels is None else datasets.Dataset.from_dict({"label": labels})
    assert chance_loss(model(name, **config), rows) == pytest.approx(expected)


def test_labels_that_are_pictures_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"labels": datasets.Image()})
    masks = [np.zeros((4, 4), dtype=np.uint8)] * 3
    rows = datasets.Dataset.from_dict({"labels": masks}, features=features)
    monkeypatch.setattr(datasets.Image, "decode_example", lambda *_, **__: pytest.fail("opened"))
    assert chance_loss(model("BeitForSemanticSegmentation"), rows) == 0.0
