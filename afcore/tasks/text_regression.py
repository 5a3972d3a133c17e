"""Text regression: a number for a text, or for a pair of texts."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.data.examples import Examples
from afcore.data.parsed_labels import parsed_labels
from afcore.data.sources import Rows
from afcore.data.table import Table
from afcore.errors import DataError
from afcore.tasks.scores import RowValues, Score, mean_of
from afcore.tasks.task import Targets
from afcore.tasks.text import TextTask

__all__ = ["TextRegression"]

_LARGEST = 1e18
"""Of whose squares, the losses, 32 bits can sum some hundreds."""


def _correlation(name: str, values: RowValues) -> float:
    """0 where either side is one number throughout: nothing goes along with anything."""
    from torchmetrics.functional import regression

    labels, predicted = (values[name].astype(np.float64) for name in ("labels", "predicted"))
    if np.ptp(labels) == 0.0 or np.ptp(predicted) == 0.0:
        return 0.0
    compute = getattr(regression, f"{name}_corrcoef")
    return float(compute(torch.from_numpy(predicted), torch.from_numpy(labels)))


def _finite(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


class TextRegression(TextTask):
    """A number for a text, or for a pair of texts, trained on in its own unit.

    Its loss is the mean squared error.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "pearson",
            "Pearson correlation",
            ("labels", "predicted"),
            partial(_correlation, "pearson"),
        ),
        Score(
            "spearman",
            "Spearman correlation",
            ("labels", "predicted"),
            partial(_correlation, "spearman"),
        ),
        mean_of("distances", "mae", "mean absolute error", higher_is_better=False),
        mean_of("losses", "loss", "mean squared error", higher_is_better=False),
    )

    name: Literal["text-regression"] = "text-regression"

    @staticmethod
    def read_label(source: str, key: str, column: str, table: Table) -> Sequence[Any]:
        """A column as numbers.

        Raises:
            DataError: for a value that is none, not finite, or too large.
        """
        numbers = parsed_labels(
            (source, key, column, table),
            _finite,
            ", which is no number,",
            ". Write a number with a decimal point, name another column with "
            f"data.{key}, or choose another task",
        )
        for row, number in enumerate(numbers):
            if abs(number) > _LARGEST:
                raise DataError(
                    f"data {source!r}: column {column!r} holds {number:g} in "
                    f"{table.places.name(row)}, whose square is too large to be trained on. Give "
                    f"numbers up to {_LARGEST:g}, in another unit, say"
                )
        return numbers

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "TextRegression":
        """Nothing; numbers that are all one are refused."""
        numbers = everything.targets["label"]
        if min(numbers) == max(numbers):
            raise DataError(
                f"data {everything.source!r}: each of the {len(numbers)} rows has the number "
                f"{numbers[0]:g}, so there is nothing to learn. Name another column with data.label"
            )
        return cls()

    def encode_labels(self, labels: list[float]) -> npt.NDArray[np.float32]:
        """[n], the numbers."""
        return np.asarray(labels, dtype=np.float32)

    @property
    def head_settings(self) -> dict[str, Any]:
        """One number."""
        return {"num_labels": 1, "problem_type": "regression"}

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b], squared errors of [b, 1] outputs."""
        return (outputs[:, 0] - targets["labels"]).square()

    @property
    def curvature(self) -> float:
        """Of a square."""
        return 2.0

    def chance_loss(self, examples: Examples) -> float:
        """Of always answering the mean: the variance."""
        return float(examples.targets["labels"].values.astype(np.float64).var())

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``labels``, ``predicted`` and ``distances`` between them, [n] float32."""
        labels, predicted = examples.targets["labels"].values, answers[:, 0]
        return {"labels": labels, "predicted": predicted, "distances": np.abs(labels - predicted)}

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[float]:
        """The number."""
        return [float(str(number)) for number in answers[:, 0]]

    def described(self) -> tuple[str, str]:
        """It answers a number."""
        return "a number for each", "It answers a number, in the unit of its training data."

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "TextRegression | None":
        """A model with one output that says it is for regression."""
        if config.problem_type != "regression" or config.num_labels != 1:
            return None
        return cls()
