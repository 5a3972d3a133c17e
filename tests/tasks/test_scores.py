"""Scores of answers: values written out, those that are undefined, and those of several workers."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchmetrics.functional.classification import multiclass_matthews_corrcoef

from afcore.data.examples import Column, Examples
from afcore.distributed import WorkerGroup
from afcore.tasks.answers import Answers
from afcore.tasks.one_label import matthews_correlation
from afcore.tasks.scores import remaining_errors
from afcore.tasks.task import NO_ANSWER
from afcore.tasks.text_classification import TextClassification
from afcore.training.evaluate import evaluate
from tests.training_setup import TASK, make_examples, make_split, make_trainee


def answers(confusion: list[list[int]]) -> Answers:
    """Rows with these counts by their class (a line each) and the class answered."""
    matrix = np.asarray(confusion)
    labels, predicted = (
        np.repeat(at.flatten(), matrix.flatten()) for at in np.indices(matrix.shape)
    )
    return of_rows(labels, predicted, np.full(len(labels), 0.5, dtype=np.float32))


def of_rows(labels: Any, predicted: Any, losses: Any) -> Answers:
    outputs = np.eye(max(labels.max(), predicted.max()) + 1, dtype=np.float32)[predicted]
    examples = Examples({"input_ids": Column.of([[2]] * len(labels))}, {"labels": Column(labels)})
    return Answers.of(TASK, examples, outputs, losses)


@pytest.mark.parametrize(
    ("confusion", "accuracy", "f1_macro", "matthews"),
    [
        # 97 % of one class, and a model that answers nothing else. TorchMetrics says 0.551 here.
        ([[97, 0], [3, 0]], 0.97, 0.492386, 0.0),
        # One of three is found, for two false alarms: (97 tp tn - ...) by hand 0.312715.
        ([[95, 2], [2, 1]], 0.96, 0.656357, 0.312715),
        ([[93, 4], [0, 3]], 0.96, 0.789474, 0.641014),
        ([[97, 0], [0, 3]], 1.0, 1.0, 1.0),
        ([[0, 97], [3, 0]], 0.0, 0.0, -1.0),
        # A split of one class only: all right, and some wrong.
        ([[50, 0], [0, 0]], 1.0, 1.0, 0.0),
        ([[45, 5], [0, 0]], 0.9, 0.473684, 0.0),
        # The third class has neither rows nor answers: no part of the mean.
        ([[8, 2, 0], [1, 9, 0], [0, 0, 0]], 0.85, 0.849624, 0.703526),
        # It has answers and no rows: a part of the mean, with 0.
        ([[8, 1, 1], [1, 9, 0], [0, 0, 0]], 0.85, 0.580702, 0.718370),
    ],
)
def test_values(
    confusion: list[list[int]], accuracy: float, f1_macro: float, matthews: float
) -> None:
    scores = answers(confusion).scores()
    expected = {"accuracy": accuracy, "f1_macro": f1_macro, "matthews": matthews, "loss": 0.5}
    assert scores == pytest.approx(expected, abs=1e-5)


def test_matthews_of_many_classes_is_that_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 500)
    predicted = np.where(rng.random(500) < 0.6, labels, rng.integers(0, 7, 500))
    theirs = multiclass_matthews_corrcoef(torch.tensor(predicted), torch.tensor(labels), 7)
    assert 0.5 < float(theirs) < 0.8
    assert matthews_correlation(labels, predicted) == pytest.approx(float(theirs), abs=1e-6)


class Together(WorkerGroup):
    """The last of two workers, and then the first, which hears what the last one said."""

    said: Any = None

    def gather(self, value: Any) -> list[Any]:
        if self.rank == 1:
            Together.said = value
            return [[], value]
        return [value, Together.said]


@pytest.mark.parametrize("count", [1, 40, 301])
def test_scores_are_of_the_whole_split_whatever_the_number_of_workers(count: int) -> None:
    split, examples = make_split(), make_examples(count)
    alone = evaluate(make_trainee(split, examples))
    Together.said = []
    if count > 1:
        half = evaluate(make_trainee(split, examples, group=Together(1, 2)))
        assert (half.values["losses"] == NO_ANSWER).any(), (
            "one worker alone does not have all answers"
        )
    both = evaluate(make_trainee(split, examples, group=Together(0, 2)))
    np.testing.assert_array_equal(both.values["predicted"], alone.values["predicted"])
    np.testing.assert_allclose(both.values["losses"], alone.values["losses"], atol=1e-5)
    assert both.scores() == pytest.approx(alone.scores(), abs=1e-6)
    assert alone.values["losses"].min() > 0


def test_the_mean_of_two_workers_scores_is_another_number() -> None:
    whole = answers([[95, 2], [2, 1]])
    parts = [pick(whole, np.arange(rank, 100, 2)) for rank in (0, 1)]
    mean = np.mean([part.scores()["f1_macro"] for part in parts])
    assert abs(mean - whole.scores()["f1_macro"]) > 0.01


def pick(whole: Answers, rows: npt.NDArray[np.int64]) -> Answers:
    return Answers(TASK, {name: values[rows] for name, values in whole.values.items()})


def test_directions_and_what_is_no_number() -> None:
    scores = {"accuracy": 0.9, "f1_macro": 0.7, "matthews": -0.2, "loss": 0.3}
    quality = {score.name: score.quality(scores) for score in TextClassification.scores}
    assert quality == {"accuracy": 0.9, "f1_macro": 0.7, "matthews": -0.2, "loss": -0.3}
    broken = scores | {"loss": float("nan")}
    assert {score.quality(broken) for score in TextClassification.scores} == {-np.inf}


def test_what_is_left_to_gain() -> None:
    seen = [{"accuracy": 0.9, "f1_macro": 0.5, "matthews": -0.5, "loss": 0.3}]
    left = {score.name: remaining_errors(score, seen) for score in TextClassification.scores}
    assert left == {"accuracy": (), "f1_macro": (0.5,), "matthews": (1.5,), "loss": ()}
