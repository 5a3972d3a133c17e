"""Multi-label classification: any number of labels, none among them, for a text or a pair."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from afcore.data.examples import Examples
from afcore.data.sources import Rows
from afcore.data.stored_values import StoredValues
from afcore.data.table import Table
from afcore.data.text_lists import read_text_lists
from afcore.errors import DataError
from afcore.tasks.binary_outputs import BinaryOutputsTask, binary_head
from afcore.tasks.label_names import (
    learn_label_names,
    read_label_names,
    shown_labels,
)
from afcore.tasks.scores import LOG_LOSS, RowValues, Score, mean_of

__all__ = ["SEPARATOR", "MultiLabelClassification"]

SEPARATOR = ","
"""Between the labels of a row, where they are written as one text."""
_FLAGS = {"0", "1", "0.0", "1.0", "false", "true"}


def _without_blanks(labels: list[str]) -> list[str]:
    return list(dict.fromkeys(label.strip() for label in labels if label.strip()))


def _are_flags(rows: Sequence[list[str]]) -> bool:
    """Whether each row has as many, two or more, that say yes or no, and some say it twice.

    They would be taken for the names of two labels.
    """
    sizes, twice = set[int](), False
    for labels in rows:
        if labels:
            sizes.add(len(labels))
            if len(sizes) > 1 or not all(label.strip().casefold() in _FLAGS for label in labels):
                return False
            twice = twice or len(set(labels)) < len(labels)
    return twice


def _f1(average: Literal["micro", "macro"], values: RowValues) -> float:
    from torchmetrics.functional.classification import multilabel_f1_score

    labels, predicted = (torch.from_numpy(values[name] > 0) for name in ("labels", "predicted"))
    return float(
        multilabel_f1_score(
            predicted, labels, num_labels=labels.shape[1], average=average, validate_args=False
        )
    )


class MultiLabelClassification(BinaryOutputsTask):
    """Which of ``c`` labels a text has; each is answered by itself, at a probability of a half.

    The labels of a row are a list, or stand with commas between them; a blank one has none.

    Attributes:
        label_names: c.
    """

    label_may_be_blank = True
    scores: ClassVar[tuple[Score, ...]] = (
        Score(
            "f1_micro",
            "micro-F1",
            ("labels", "predicted"),
            partial(_f1, "micro"),
            in_percent=True,
            stops=True,
        ),
        Score(
            "f1_macro",
            "macro-F1",
            ("labels", "predicted"),
            partial(_f1, "macro"),
            in_percent=True,
            stops=True,
        ),
        mean_of("exact", "exact_match", "exact match", in_percent=True),
        LOG_LOSS,
    )

    name: Literal["multi-label-classification"] = "multi-label-classification"
    label_names: list[str]

    @staticmethod
    def read_label(source: str, key: str, column: str, table: Table) -> Sequence[Any]:
        """A column of lists, or of texts with the labels of a row between commas; blank is none.

        Raises:
            DataError: for a value that is neither, or a list with something that is no text; and
                where each row says of each label whether it has it.
        """
        rows = read_text_lists(source, key, column, table, SEPARATOR)
        if _are_flags(rows):
            first = next(row for row, labels in enumerate(rows) if labels)
            raise DataError(
                f"data {source!r}: column {column!r} holds a 0 or 1 for each of "
                f"{len(rows[first])} labels in every row (the first is {table.places.name(first)}),"
                " and the names of those that hold were expected. Write these, as in "
                '["news", "sport"], or with commas between them'
            )
        return StoredValues(_without_blanks(labels) for labels in rows)

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "MultiLabelClassification":
        """The labels; those of validation and test must be among them.

        Raises:
            DataError: for one with a comma, by which predictions would not be told apart.
        """
        names = learn_label_names(splits, everything, lambda labels: labels)
        if divided := [name for name in names if SEPARATOR in name]:
            rows = enumerate(everything.targets["label"])
            first = next(row for row, labels in rows if divided[0] in labels)
            raise DataError(
                f"data {everything.source!r}: the label {divided[0]!r} in "
                f"{everything.place(first)} has a comma, which stands between two labels in "
                "predictions. Write it without"
            )
        return cls(label_names=names)

    def encode_labels(self, labels: list[list[str]]) -> npt.NDArray[np.float32]:
        """[n, c], 1 where a row has the label."""
        index = {name: i for i, name in enumerate(self.label_names)}
        found = np.zeros((len(labels), len(index)), dtype=np.float32)
        for row, some in enumerate(labels):
            found[row, [index[label] for label in some if label in index]] = 1.0
        return found

    def unknown_labels(self, labels: Sequence[list[str]]) -> list[str]:
        """Not among the label names."""
        known = set(self.label_names)
        return [label for some in labels for label in some if label not in known]

    def warnings(self, validation: Examples, score: Score) -> list[str]:
        """Of labels that no validation row has."""
        counts = validation.targets["labels"].values.sum(0)
        missing = [name for name, count in zip(self.label_names, counts, strict=True) if not count]
        if not missing or score.name == "exact_match":
            return []
        return [
            f"no validation row has the label {shown_labels(missing, 5)}: the {score.title} that "
            "chooses the epoch hardly sees them. Give data.validation with rows of every label, or "
            "hold out more"
        ]

    @property
    def head_settings(self) -> dict[str, Any]:
        """A number for each label."""
        return binary_head(self.label_names)

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``labels`` and ``predicted``, [n, c] uint8, and ``exact``, [n] bool: all right."""
        labels = examples.targets["labels"].values.astype(np.uint8)
        predicted = (answers > 0).astype(np.uint8)
        exact = (labels == predicted).all(-1)
        return {"labels": labels, "predicted": predicted, "exact": exact}

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[str]:
        """The labels, with commas between them."""
        return [
            SEPARATOR.join(name for name, has in zip(self.label_names, row, strict=True) if has)
            for row in answers > 0
        ]

    def probabilities(self, answers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Of each label by itself."""
        shares = torch.from_numpy(answers).sigmoid().numpy()
        return {name: shares[:, i] for i, name in enumerate(self.label_names)}

    def described(self) -> tuple[str, str]:
        """Its labels."""
        found = f"Any of these labels: {shown_labels(self.label_names)}"
        return f"any of {len(self.label_names)} labels", found

    @classmethod
    def of_model(
        cls, name: str, config: Any, processor: Any, *, ours: bool
    ) -> "MultiLabelClassification | None":
        """A model that says so."""
        if config.problem_type != "multi_label_classification":
            return None
        names = read_label_names(name, config, ours=ours)
        return cls(label_names=names)
