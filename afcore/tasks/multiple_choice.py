"""Multiple choice: which of several texts goes on from a text, or answers it?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.data.examples import Examples
from afcore.data.parsed_labels import parsed_labels, whole_number
from afcore.data.sources import Field, Rows, read_texts
from afcore.data.stored_values import StoredValues
from afcore.data.table import Table
from afcore.data.text_lists import is_list, read_inner
from afcore.errors import DataError
from afcore.tasks.scores import LOG_LOSS, RowValues, Score, mean_of
from afcore.tasks.task import Targets
from afcore.tasks.text import TextTask, text_fields

__all__ = ["MultipleChoice", "read_choices", "read_numbers_of_choices"]

_HIDDEN = (
    ". -1 stands for no label, as in test sets whose labels are not published: take another split, "
    "or only the rows that have one"
)


def read_choices(source: str, key: str, column: str, table: Table) -> Sequence[list[str]]:
    """A column of lists of texts, none of them blank.

    Raises:
        DataError: for a value that is no list, or a text in it that is blank.
    """
    values = table.columns[column]
    for row, value in enumerate(values):
        if not is_list(value):
            raise DataError(
                f"data {source!r}: column {column!r} holds {str(value)[:40]!r} in "
                f"{table.places.name(row)}, and a list of texts was expected. Name a column of "
                f"lists, or the columns of the choices with commas between them, with data.{key}"
            )
    found = read_inner(Field(key, column, read_texts), source, values, table.places)
    for row, texts in enumerate(found):
        if not all(text.strip() for text in texts):
            raise DataError(
                f"data {source!r}: column {column!r} has a blank choice in "
                f"{table.places.name(row)}. Fill it, or remove the row"
            )
    return found


def read_numbers_of_choices(source: str, key: str, column: str, table: Table) -> Sequence[int]:
    """A column of whole numbers, the first choice being 0; ``2.0`` is 2.

    Raises:
        DataError: for a value that is none.
    """
    return parsed_labels(
        (source, key, column, table),
        whole_number,
        "",
        ", and the number of a choice was expected, 0 for the first. Name another column with "
        f"data.{key}",
    )


class MultipleChoice(TextTask):
    """Which of several choices is right, by the number of it, 0 for the first.

    A choice is read as a pair with the text. It begins with `data.text_pair`, where there is one,
    as each ending of SWAG begins with the same words. The choices are a column of lists, or some
    columns with commas between their names; all rows have as many.

    Attributes:
        num_choices: c.
    """

    scores: ClassVar[tuple[Score, ...]] = (
        mean_of("right", "accuracy", "accuracy", in_percent=True),
        LOG_LOSS,
    )
    auto_class = "AutoModelForMultipleChoice"
    pipeline_tag = "multiple-choice"
    columns: ClassVar[Mapping[str, str]] = {"text": "text", "choices": "choices", "label": "label"}

    name: Literal["multiple-choice"] = "multiple-choice"
    num_choices: int

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text``, ``text_pair`` where ``columns`` has it, ``choices``, and ``label``."""
        choices, label = columns["choices"], columns.get("label")
        assert choices is not None
        found = text_fields(columns)
        names = [name.strip() for name in choices.split(",")]
        if len(names) == 1:
            found.append(Field("choices", choices, read_choices))
        else:
            found += [Field(f"choices.{i}", name, read_texts) for i, name in enumerate(names)]
        if label is not None:
            found.append(Field("label", label, read_numbers_of_choices, is_target=True))
        return found

    @classmethod
    def learn(
        cls, splits: Mapping[str, Rows], everything: Rows, processor: Any
    ) -> "MultipleChoice":
        """How many choices there are; every row must have as many, and one that is right."""
        count = len(next(_choices(everything)))
        if count < 2:
            raise DataError(
                f"data {everything.source!r}: {everything.place(0)} has {count} choice; two or "
                "more were expected. Name their columns with data.choices"
            )
        for rows in splits.values():
            _check(rows, count)
        return cls(num_choices=count)

    @property
    def group_size(self) -> int:
        """A choice is an example."""
        return self.num_choices

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids`` and so on of each choice; the label stands with each."""
        _check(rows, self.num_choices)
        size = self.num_choices
        inputs: dict[str, Sequence[Any]] = {
            "text": StoredValues(text for text in rows.inputs["text"] for _ in range(size)),
            "text_pair": StoredValues(_continued(rows)),
        }
        targets: dict[str, Sequence[Any]] = {
            key: StoredValues(value for value in values for _ in range(size))
            for key, values in rows.targets.items()
        }
        ids = np.repeat(np.arange(len(rows)), size)
        places = None if rows.places is None else rows.places.pick(ids)
        flat = Rows(rows.source, inputs, targets, places=places)
        found = super().examples(processor, flat, max_length)
        return Examples(found.inputs, found.targets, rows=ids)

    def encode_labels(self, labels: list[int]) -> npt.NDArray[np.int64]:
        """[n], as they are."""
        return np.asarray(labels, dtype=np.int64)

    @property
    def head_settings(self) -> dict[str, Any]:
        """None: the head gives each choice a number."""
        return {}

    @property
    def num_outputs(self) -> int:
        """Of a choice."""
        return 1

    def as_whole(
        self, inputs: dict[str, Tensor], targets: Targets
    ) -> tuple[dict[str, Tensor], Targets]:
        """[b * c, s] as [b, c, s]; a label a question."""
        size = self.num_choices
        shaped = {name: values.view(-1, size, values.shape[-1]) for name, values in inputs.items()}
        return shaped, {name: values[::size] for name, values in targets.items()}

    def losses(self, outputs: Tensor, targets: Targets) -> Tensor:
        """[b * c], cross-entropy of each question, in nats, with each of its choices."""
        size = self.num_choices
        each = torch.nn.functional.cross_entropy(
            outputs.reshape(-1, size), targets["labels"][::size], reduction="none"
        )
        return each.repeat_interleave(size)

    def chance_loss(self, examples: Examples) -> float:
        """Of finding all choices as good."""
        return math.log(self.num_choices)

    def answers(self, outputs: Tensor, inputs: dict[str, Tensor], model: Any) -> Tensor:
        """[b * c, 1], what each choice got."""
        return outputs.reshape(-1, 1)

    def row_values(self, examples: Examples, answers: npt.NDArray[Any]) -> RowValues:
        """``labels`` and ``predicted``, [n] int64, and ``right``, [n] bool, of each question."""
        labels = examples.targets["labels"].values[:: self.num_choices]
        predicted = answers.reshape(-1, self.num_choices).argmax(-1)
        return {"labels": labels, "predicted": predicted, "right": labels == predicted}

    def predictions(self, examples: Examples, answers: npt.NDArray[Any]) -> list[int]:
        """The number of the choice."""
        return [int(i) for i in answers.reshape(-1, self.num_choices).argmax(-1)]

    def probabilities(self, answers: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        """Softmax, of each choice by its number."""
        shares = torch.from_numpy(answers.reshape(-1, self.num_choices)).softmax(-1).numpy()
        return {str(number): shares[:, number] for number in range(self.num_choices)}

    def described(self) -> tuple[str, str]:
        """How many choices it has."""
        return (
            f"one of {self.num_choices} choices",
            f"It answers which of {self.num_choices} texts goes with a text, 0 for the first.",
        )

    @classmethod
    def of_model(cls, name: str, config: Any, processor: Any, *, ours: bool) -> None:
        """None: a model does not say how many choices it had."""
        return None


def _choices(rows: Rows) -> Iterator[list[str]]:
    """Of each row."""
    if "choices" in rows.inputs:
        return iter(rows.inputs["choices"])
    columns = [values for key, values in rows.inputs.items() if key.startswith("choices.")]
    return (list(some) for some in zip(*columns, strict=True))


def _continued(rows: Rows) -> Iterator[str]:
    """Each choice of each row, behind what it begins with."""
    begins = rows.inputs.get("text_pair", repeat(None, len(rows)))
    for begin, choices in zip(begins, _choices(rows), strict=True):
        for choice in choices:
            yield choice if begin is None else f"{begin} {choice}"


def _check(rows: Rows, count: int) -> None:
    labels = rows.targets.get("label", repeat(0, len(rows)))
    for row, (choices, label) in enumerate(zip(_choices(rows), labels, strict=True)):
        if len(choices) != count:
            raise DataError(
                f"data {rows.source!r}: {rows.place(row)} has {len(choices)} choices, and the "
                f"first row of the training set has {count}. Give all rows as many"
            )
        if not 0 <= label < count:
            raise DataError(
                f"data {rows.source!r}: {rows.place(row)} says that choice {label} is right, and "
                f"there are choices 0 to {count - 1}{_HIDDEN if label == -1 else ''}"
            )
