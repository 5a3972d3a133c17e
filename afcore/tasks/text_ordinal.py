"""Ordinal classification: one of several levels that have an order, for a text or a pair of texts.

Each threshold between two levels is a binary question, "is the level above it?", as in CORAL
(arXiv 1901.07884).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from afcore.data.examples import Examples
from afcore.data.parsed_labels import parsed_labels, whole_number
from afcore.data.sources import Rows
from afcore.data.table import Table
from afcore.errors import DataError
from afcore.tasks.binary_outputs import BinaryOutputsTask, binary_head
from afcore.tasks.scores import LOG_LOSS, RowValues, Score, mean_of

__all__ = ["MOST_LEVELS", "TextOrdinal", "quadratic_kappa"]

MOST_LEVELS = 100
"""More are refused: such labels are numbers, or no levels at all."""
_FARTHEST = 10**6
"""Levels beyond the scale that a label of a file to predict counts as, at most."""


def quadratic_kappa(labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64]) -> float:
    """Cohen's kappa, weighted by squared distances: 1 all right, 0 as good as chance.

    0 where it is undefined, which is where all labels and all answers are one level.

    Args:
        labels: [n], in levels above any zero.
        predicted: [n].
    """
    from torchmetrics.functional.classification import multiclass_cohen_kappa

    lowest = min(labels.min(), predicted.min())
    count = int(max(labels.max(), predicted.max()) - lowest) + 1
    if count < 2:
        return 0.0
    if count > MOST_LEVELS:  # of labels that are no levels of the model's, as of a file to predict
        return _kappa_of_moments(labels.astype(np.float64), predicted.astype(np.float64))
    answers, wanted = (torch.from_numpy(levels - lowest) for levels in (predicted, labels))
    return float(
        multiclass_cohen_kappa(answers, wanted, count, weights="quadratic", validate_args=False)
    )


def _kappa_of_moments(labels: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64]) -> float:
    """The same without a matrix of all pairs of levels: distances, over those of independent ones.

    Source: Fleiss and Cohen 1973, doi:10.1177/001316447303300309.
    """
    apart = labels.var() + predicted.var() + (labels.mean() - predicted.mean()) ** 2
    return float(1.0 - np.square(labels - predicted).mean() / apart)


def _kappa(values: RowValues) -> float:
    return quadratic_kappa(values["labels"], values["predicted"])


class TextOrdinal(BinaryOutputsTask):
    """One of several levels that have an order, written as whole numbers, by thresholds.

    There are ``c - 1`` between the ``c`` levels from ``lowest`` to ``highest``.

    Paper: the thresholds share their weights and differ in a bias, so that a higher one is never
    likelier to be passed. Here: each has its own weights, because the head is that of Transformers;
    so the answer is how many thresholds are passed, whichever they are.

    Attributes:
        lowest: level.
        highest: level.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        Score("kappa", "quadratic weighted kappa", ("labels", "predicted"), _kappa),
        mean_of("distances", "mae", "mean absolute error", higher_is_better=False),
        mean_of("right", "accuracy", "accuracy", in_percent=True),
        LOG_LOSS,
    )

    name: Literal["text-ordinal"] = "text-ordinal"
    lowest: int
    highest: int

    @staticmethod
    def read_label(source: str, key: str, column: str, table: Table) -> Sequence[Any]:
        """A column as whole numbers; ``4.0`` is 4.

        Raises:
            DataError: for a value that is none.
        """
        return parsed_labels(
            (source, key, column, table),
            whole_number,
            ", which is no whole number,",
            ". Number the levels in their order, name another column with "
            f"data.{key}, or choose another task",
        )

    @classmethod
    def learn(cls, splits: Mapping[str, Rows], everything: Rows, processor: Any) -> "TextOrdinal":
        """The ends of the scale, rows beyond the limit included; the other splits lie between."""
        levels = {*everything.targets["label"], *everything.beyond.get("label", [])}
        task = cls(lowest=min(levels), highest=max(levels))
        if not 2 <= task.highest - task.lowest + 1 <= MOST_LEVELS:
            raise DataError(
                f"data {everything.source!r}: the levels go from {task.lowest} to {task.highest}; "
                f"2 to {MOST_LEVELS} levels were expected. Name another column with data.label, or "
                "choose another task"
            )
        for split, rows in splits.items():
            for row, level in enumerate(rows.targets["label"]):
                if not task.lowest <= level <= task.highest:
                    raise DataError(
                        f"data {rows.source!r} ({split}): the level {level} in {rows.place(row)} "
                        f"is not among those of the training set, {task.lowest} to "
                        f"{task.highest}. Remove the row, or train on rows of that level"
                    )
        return task

    def encode_labels(self, labels: list[int]) -> npt.NDArray[np.float32]:
        """[n, c - 1], 1 where the level is above the threshold.

        The sum of a row is how far the level is above the lowest one, beyond the ends too (rows to
        be predicted may have such levels): there it is the outer threshold that counts more.
        """
        most = self.num_outputs + _FARTHEST
        near = [min(max(level - self.lowest, -_FARTHEST), most) for level in labels]
        above = np.asarray(near, dtype=np.int64).reshape(-1)
        found = (above[:, None] > np.arange(self.num_outputs)).astype(np.float32)
        found[:, 0] += np.minimum(above, 0)
        found[:, -1] += np.maximum(above - self.num_outputs, 0)
        return found

    def unknown_labels(self, labels: Sequence[int]) -> list[str]:
        """Beyond the ends of the scale."""
        return [str(level) for level in labels if not self.lowest <= level <= self.highest]

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """Of a scale of which validation shows one level only."""
        levels = validation.targets["labels"].values.sum(-1)
        if np.ptp(levels):
            return []
        return [
            f"all {len(levels)} validation rows have the level {self.lowest + int(levels[0])}: the "
            f"{score.title} cannot say whether the others are known. Give data.validation with "
            "rows of every level, or hold out more"
        ]

    @property
    def head_settings(self) -> dict[str, Any]:
        """A number for each threshold, of the loss of several labels."""
        thresholds = [f"above {level}" for level in range(self.lowest, self.highest)]
        return binary_head(thresholds)

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``labels`` and ``predicted``, from 0, ``distances``, all [n] int64; ``right``, bool."""
        labels = examples.targets["labels"].values.sum(-1).astype(np.int64)
        predicted = (answers > 0).sum(-1)
        distances = np.abs(labels - predicted)
        return {
            "labels": labels,
            "predicted": predicted,
            "distances": distances,
            "right": distances == 0,
        }

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[int]:
        """The level."""
        return [self.lowest + int(passed) for passed in (answers > 0).sum(-1)]

    def probabilities(self, answers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Of being above each level but the highest."""
        shares = torch.from_numpy(answers).sigmoid().numpy()
        return {f"above_{self.lowest + i}": shares[:, i] for i in range(self.num_outputs)}

    def described(self) -> tuple[str, str]:
        """Its scale."""
        return (
            f"{self.highest - self.lowest + 1} levels",
            f"It answers a level from {self.lowest} to {self.highest}: the lowest, and one more "
            "for each output above 0.",
        )

    @property
    def class_names(self) -> list[str]:
        """The levels."""
        return [str(level) for level in range(self.lowest, self.highest + 1)]

    @classmethod
    def of_model(cls, name: str, config: Any, processor: Any, *, ours: bool) -> None:
        """None: such a head is also that of several labels, so only a recorded task tells."""
        return None
