"""A column of lists of texts: words, labels."""

import ast
from typing import Any

import numpy as np

from afcore.data.sources import read_labels
from afcore.data.table import Table
from afcore.errors import DataError

__all__ = ["read_text_lists"]


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
    if not any(_is_list(value) for value in values):
        texts = read_labels(source, key, column, table)
        written = [_written_list(text) for text in texts]
        if any(written) and all(one is not None for one in written):
            values = written
        else:
            return [text.split(separator) for text in texts]
    rows = [[] if value is None else value for value in values]
    for row, value in enumerate(rows):
        if not _is_list(value):
            raise DataError(
                f"data {source!r}: column {column!r} holds lists, and {str(value)[:40]!r} in "
                f"{table.places.name(row)}. Write a list in each row"
            )
    sizes = [len(value) for value in rows]
    places = table.places.pick(np.repeat(np.arange(len(rows)), sizes))
    inner = Table([column], {column: [one for value in rows for one in value]}, places)
    flat = iter(read_labels(source, key, column, inner))
    return [[next(flat) for _ in range(size)] for size in sizes]


def _is_list(value: Any) -> bool:
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
