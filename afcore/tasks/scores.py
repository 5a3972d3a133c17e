"""Scores of answers: what they are computed from, how they are shown, and which way is better.

One of a task's scores is the main one: it chooses the published epoch, may stop a training, and
ranks runs. The rows that a score is computed from are kept with a test, so that two runs can be
compared row by row.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "LOG_LOSS",
    "TOKEN_LOSS",
    "RowValues",
    "Score",
    "mean_of",
    "remaining_errors",
    "shown_score",
]

RowValues = Mapping[str, npt.NDArray[Any]]
"""By name, [n, ...]: what a model answered on each row, and what it should have answered."""


@dataclass(frozen=True)
class Score:
    """One score of the answers on a split.

    Attributes:
        name: in reports and in the configuration.
        title: in tables and messages.
        rows: names of the values of a row that it is computed from.
        compute: it, from these.
        higher_is_better: its direction.
        in_percent: shown as a percentage; else as a number.
        stops: whether a training that may stop goes on while it gets better, beside the loss.
            Accuracy does not: in one epoch of a small validation set it says less than the loss.
        is_mean: it is the mean over the rows of its one value.
    """

    name: str
    title: str
    rows: tuple[str, ...]
    compute: Callable[[RowValues], float]
    higher_is_better: bool = True
    in_percent: bool = False
    stops: bool = False
    is_mean: bool = False

    def quality(self, scores: Mapping[str, float]) -> float:
        """The score so that more is better; ``-inf`` where it, or the loss, is no number."""
        value = scores[self.name]
        if not math.isfinite(value) or not math.isfinite(scores.get("loss", 0.0)):
            return -math.inf
        return value if self.higher_is_better else -value

    def shown(self, value: float) -> str:
        """A score as people read it."""
        return shown_score(value, in_percent=self.in_percent)


def shown_score(value: float, *, in_percent: bool) -> str:
    """The same where only this is known of the score."""
    return f"{100 * value:.2f} %" if in_percent else f"{value:.4f}"


def mean_of(rows: str, name: str, title: str, **facts: Any) -> Score:
    """A score that is the mean of ``rows``."""

    def compute(values: RowValues) -> float:
        return float(values[rows].mean(dtype=np.float64))

    return Score(name, title, (rows,), compute, is_mean=True, **facts)


LOG_LOSS = mean_of("losses", "loss", "log loss", higher_is_better=False)


def _of_answers(values: RowValues) -> float:
    return float(np.average(values["losses"].astype(np.float64), weights=values["weights"]))


TOKEN_LOSS = Score("loss", "log loss", ("losses", "weights"), _of_answers, higher_is_better=False)
"""Of each answer where an example is asked for several."""


def remaining_errors(score: Score, validations: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """What is left to gain, ``1 - score`` after each epoch, where the score has a say in stopping.

    Args:
        score: the main one.
        validations: scores on the validation split after each epoch.

    Returns:
        Nothing where the loss alone says when to stop.
    """
    return tuple(1.0 - scores[score.name] for scores in validations) if score.stops else ()
