"""A column of lists of texts: words, labels."""

import ast
from typing import Any

import numpy as np

from afcore.data.sources import Field, read_labels
from afcore.data.table import Places, Table
from afcore.errors import DataError

__all__ = ["is_list", "read_inner", "read_text_lists"]


def read_text_lists(
    source: str, key: str, column: str, table: Table, separator: str | None = None
) -> list[list[str]]:
    """A column of lists, or of texts that are divided; nothing is an empty list.

    A CSV has lists as they are written by others: where all its texts are like ``["a", "b"]``, they
    are read so.

    Args:
        source: name of the data.
        key: what the column is: ``text``, ``label``.
        column: its name.
        table: that has it.
        separator: between the parts of a text; None: white space.

    Raises:
        DataError: for a value that is neither, or a list with something that is no text.
    """
    values = table.columns[column]
    if not any(is_list(value) for value in values):
        texts = read_labels(source, key, column, table)
        written = [_written_list(text) for text in texts]
        if any(written) and all(one is not None for one in written):
            values = written
        else:
            return [text.split(separator) for text in texts]
    rows = [[] if value is None else value for value in values]
    for row, value in enumerate(rows):
        if not is_list(value):
            raise DataError(
                f"data {source!r}: column {column!r} holds lists, and {str(value)[:40]!r} in "
                f"{table.places.name(row)}. Write a list in each row"
            )
    return read_inner(Field(key, column, read_labels), source, rows, table.places)


def read_inner(field: Field, source: str, rows: list[Any], places: Places) -> list[list[Any]]:
    """What stands in lists, read by a field as a column of its own; in lists again.

    Args:
        field: that reads.
        source: name of the data.
        rows: lists.
        places: of these.
    """
    sizes = [len(value) for value in rows]
    of_each = places.pick(np.repeat(np.arange(len(rows)), sizes))
    inner = Table([field.column], {field.column: [one for row in rows for one in row]}, of_each)
    flat = iter(field.read(source, field.key, field.column, inner))
    return [[next(flat) for _ in range(size)] for size in sizes]


def is_list(value: Any) -> bool:
    """As formats and libraries give them."""
    return isinstance(value, list | tuple | np.ndarray)


def _written_list(text: str) -> list[Any] | None:
    """None: it is none."""
    if not text:
        return []
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None
    return value if isinstance(value, list) else None
