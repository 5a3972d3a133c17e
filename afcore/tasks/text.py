"""What tasks on a text, or on a pair of texts, have in common: all but what is answered."""

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy.typing as npt

from afcore.data.column_file import ColumnFile, column_of
from afcore.data.examples import Examples
from afcore.data.sources import Field, Rows, read_labels, read_texts
from afcore.data.table import Table
from afcore.tasks.task import Task
from afcore.tasks.tokenizing import check_tokens_of, encodings

__all__ = ["TextTask", "text_fields"]


def text_fields(columns: Mapping[str, str | None]) -> list[Field]:
    """``text``, and ``text_pair`` where ``columns`` has it."""
    return [
        Field(key, column, read_texts)
        for key in ("text", "text_pair")
        if (column := columns.get(key)) is not None
    ]


class TextTask(Task):
    """One answer for a text, or for a pair of texts; its target is the field ``label``."""

    label_may_be_blank: ClassVar[bool] = False

    @abstractmethod
    def encode_labels(self, labels: list[Any]) -> npt.NDArray[Any]:
        """[n, ...], the target ``labels``, from the rows' own."""

    @staticmethod
    def read_label(source: str, key: str, column: str, table: Table) -> Sequence[Any]:
        """The column of the labels; text unless a task wants something else."""
        return read_labels(source, key, column, table)

    @classmethod
    def fields(cls, columns: Mapping[str, str | None]) -> list[Field]:
        """``text``, ``text_pair`` where ``columns`` has it, and ``label``."""
        found = text_fields(columns)
        label = columns.get("label")
        if label is not None:
            blank = cls.label_may_be_blank
            found.append(Field("label", label, cls.read_label, blank, is_target=True))
        return found

    def examples(self, processor: Any, rows: Rows, max_length: int) -> Examples:
        """``input_ids``, and for pairs ``token_type_ids`` where the model knows them."""
        texts, pairs = rows.inputs["text"], rows.inputs.get("text_pair")
        found = defaultdict[str, ColumnFile](ColumnFile)
        given = (texts,) if pairs is None else (texts, pairs)
        options = {"truncation": True, "max_length": max_length}
        for start, encoded in encodings(processor, rows.source, given, **options):
            for name, values in encoded.items():
                if name == "input_ids" or (name == "token_type_ids" and pairs is not None):
                    found[name].add(values)
            check_tokens_of(rows, start, encoded["input_ids"])
        inputs = {name: found[name].column() for name in sorted(found)}
        targets = {}
        if "label" in rows.targets:
            targets["labels"] = column_of(self.encode_labels, rows.targets["label"])
        return Examples(inputs, targets)
