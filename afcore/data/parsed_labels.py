"""A column of labels that are numbers of some kind, each read from its text."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from afcore.data.sources import read_labels
from afcore.data.stored_values import StoredValues
from afcore.data.table import Table
from afcore.errors import DataError

__all__ = ["parsed_labels", "whole_number"]

Value = TypeVar("Value", int, float)
_LabelColumn = tuple[str, str, str, Table]
"""Source, key, column and table, as a task's ``read_label`` is given them."""


def whole_number(text: str) -> int | None:
    """Of a text such as ``4`` or ``4.0``, as which pandas has numbers beside a missing one."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def parsed_labels(
    label: _LabelColumn, parse: Callable[[str], Value | None], unlike: str, advice: str
) -> Sequence[Value]:
    """The values of a column.

    Args:
        label: where it is.
        parse: the value of a text; None: it is none.
        unlike: what is said behind a text that is none.
        advice: what is said behind its place.

    Raises:
        DataError: for a text that is none.
    """
    source, key, column, table = label

    def value(row: int, text: str) -> Value:
        found = parse(text)
        if found is None:
            what = f"holds {text[:40]!r}{unlike}" if text else "is empty"
            place = table.places.name(row)
            raise DataError(f"data {source!r}: column {column!r} {what} in {place}{advice}")
        return found

    texts = read_labels(source, key, column, table)
    return StoredValues(value(row, text) for row, text in enumerate(texts))
