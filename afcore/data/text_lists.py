"""A column of lists of texts: words, labels."""

import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import numpy as np

from afcore.data.sources import Field, read_labels
from afcore.data.stored_values import StoredValues
from afcore.data.table import Places, ReadColumn, Table
from afcore.data.written_values import written_value
from afcore.errors import DataError

__all__ = ["is_list", "read_inner", "read_text_lists"]

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d*)?|\.\.\.)"""
_OF_NUMPY = re.compile(rf"\[\s*{_ITEM}(?:\s+{_ITEM})+\s*\]")
"""As NumPy writes an array: with no comma between two items."""


def read_text_lists(
    source: str, key: str, column: str, table: Table, separator: str | None = None
) -> Sequence[list[str]]:
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
        DataError: for a value that is neither, a list with something that is no text, or one that
            is written so that it cannot be read.
    """
    values, field = table.columns[column], Field(key, column, read_labels)
    if not any(is_list(value) for value in values):
        texts = read_labels(source, key, column, table)
        if not _are_written_lists(source, column, texts, table.places):
            return StoredValues(text.split(separator) for text in texts)
        rows = ReadColumn(lambda: map(_written_list, texts), len(texts))
        return read_inner(field, source, rows, table.places)
    for row, value in enumerate(values):
        if value is not None and not is_list(value):
            raise DataError(
                f"data {source!r}: column {column!r} holds lists, and {str(value)[:40]!r} in "
                f"{table.places.name(row)}. Write a list in each row"
            )
    rows = ReadColumn(lambda: ([] if one is None else one for one in values), len(values))
    return read_inner(field, source, rows, table.places)


def read_inner(
    field: Field, source: str, rows: Collection[Any], places: Places
) -> Sequence[list[Any]]:
    """What stands in lists, read by a field as a column of its own; in lists again.

    Args:
        field: that reads.
        source: name of the data.
        rows: lists.
        places: of these.
    """
    sizes = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
    inner = ReadColumn(lambda: (one for row in rows for one in row), int(sizes.sum()))
    table = Table([field.column], {field.column: inner}, places.repeated(sizes))
    flat = iter(field.read(source, field.key, field.column, table))
    return StoredValues(list(islice(flat, size)) for size in sizes)


def is_list(value: Any) -> bool:
    """As formats and libraries give them."""
    return isinstance(value, list | tuple | np.ndarray)


def _are_written_lists(source: str, column: str, texts: Sequence[str], places: Places) -> bool:
    """Whether texts are lists that are written out: all that are not blank, and there are some.

    Raises:
        DataError: for one that NumPy wrote, or that cannot be read where the others are lists.
    """
    readable, wrong, of_numpy, all_bracketed = False, None, False, True
    for row, text in enumerate(texts):
        if all_bracketed and _OF_NUMPY.fullmatch(text):
            wrong, of_numpy = row if wrong is None else wrong, True
            continue
        found = _written_list(text)
        readable = readable or bool(found)
        if found is None:
            wrong = row if wrong is None else wrong
            all_bracketed = all_bracketed and _is_bracketed(text)
    if wrong is not None and all_bracketed and (readable or of_numpy):
        raise _no_list(source, column, texts[wrong], places.name(wrong))
    return readable and wrong is None


def _no_list(source: str, column: str, text: str, place: str) -> DataError:
    return DataError(
        f"data {source!r}: column {column!r} holds {text[:40]!r} in {place}, which is no list that "
        'can be read. Write it with commas and quotes, like ["a", "b"]'
    )


def _is_bracketed(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")


def _written_list(text: str) -> list[Any] | None:
    """None: it is none."""
    if not text:
        return []
    if not _is_bracketed(text):
        return None
    try:
        value = written_value(text)
    except ValueError:
        return None
    return value if isinstance(value, list) else None
