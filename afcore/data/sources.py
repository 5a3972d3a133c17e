"""Rows of named fields from anywhere: files, hub data sets, memory, and what is built in.

Who asks for a field says what it holds. Leaves names to :mod:`afcore.data.named_sources`, and
tokens to :mod:`afcore.tasks.prepare`.
"""

import datetime
import decimal
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afcore.data.formats import Number, is_unicode
from afcore.data.held_rows import HeldRows
from afcore.data.named_sources import Names, load_failure, load_table, shown_name
from afcore.data.split import sampled
from afcore.data.stored_values import PickedValues, StoredValues
from afcore.data.table import Places, ReadColumn, Table
from afcore.errors import DataError

__all__ = [
    "Field",
    "Rows",
    "is_blank",
    "load_rows",
    "read_labels",
    "read_rows",
    "read_texts",
    "refuse_blank",
]

_NUMBERS = (int, float, Number, decimal.Decimal)
_KINDS: dict[type[Any], str] = {
    dict: "an object",
    list: "a list",
    bytes: "bytes that are not UTF-8",
    str: "a text that is not Unicode (half of a surrogate pair)",
}
_UNIT = "\x1f"  # between the parts of a row
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """One thing that is known of each row.

    Attributes:
        key: its name, and that of the setting in ``data`` that names its column.
        column: of the data set.
        read: the column as values, :class:`.StoredValues` or, where they are few, a list; called
            with the source's name, the key, the column and the table, it raises
            :class:`DataError` for what cannot be one.
        may_be_blank: whether a row may have a blank one.
        is_target: it is to be answered; else it is a part of what the model gets.
    """

    key: str
    column: str
    read: Callable[[str, str, str, Table], Sequence[Any]]
    may_be_blank: bool = False
    is_target: bool = False


@dataclass(frozen=True)
class Rows:
    """Values of some fields, in the source's order.

    Attributes:
        source: name of the data.
        inputs: [n] values of each field that the model gets, by key.
        targets: the same, of what should be answered.
        groups: [n], or there are none.
        places: where the rows stand in the source.
        beyond: targets of the rows beyond the limit.
        positions: [n] row of the source that each is, from 0; None: they are all of it.
    """

    source: str
    inputs: dict[str, Sequence[Any]]
    targets: dict[str, Sequence[Any]] = field(default_factory=dict)
    groups: Sequence[str] | None = None
    places: Places | None = None
    beyond: dict[str, Sequence[Any]] = field(default_factory=dict)
    positions: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def identities(self) -> Collection[str]:
        """[n], what a row is told from others by: all that the model gets of it."""
        return ReadColumn(self._identities, len(self))

    def _identities(self) -> Iterator[str]:
        rows = zip(*self.inputs.values(), strict=True)
        return (_UNIT.join(map(str, values)) for values in rows)

    def _positions(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        picked = np.asarray(ids, dtype=np.int64)
        return picked if self.positions is None else self.positions[picked]

    def place(self, row: int) -> str:
        """How a person finds a row in the source."""
        return (self.places or Places("row", range(len(self)))).name(row)

    def pick(self, ids: Sequence[int] | npt.NDArray[np.int64]) -> "Rows":
        """Some of the rows, in the order of ``ids``."""
        numbers = np.asarray(ids, dtype=np.int64)

        def some(columns: dict[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
            return {key: PickedValues(values, numbers) for key, values in columns.items()}

        return replace(
            self,
            inputs=some(self.inputs),
            targets=some(self.targets),
            groups=None if self.groups is None else PickedValues(self.groups, numbers),
            places=None if self.places is None else self.places.pick(numbers),
            positions=self._positions(numbers),
        )


def load_rows(
    source: Names | HeldRows,
    split: str,
    fields: Sequence[Field],
    *,
    limit: int | None = None,
    group: str | None = None,
    encoding: str = "utf-8",
) -> Rows:
    """Load a data set.

    Args:
        source: a file (path or fsspec URL), a pattern of files or a list of both; a folder; the
            name of a data set that is built in or of the hub; or rows in memory. See
            :mod:`afcore.data.named_sources`.
        split: the split to take when ``source`` does not name one.
        fields: what to read.
        limit: at most so many rows, a sample by :func:`afcore.data.split.sampled`.
        group: column of the groups: strings or numbers.
        encoding: of CSV and JSON files.

    Raises:
        DataError: when the source cannot be read, is empty, or lacks a column, or when a value is
            not what the field wants.
        StorageFullError: when there is no space left for a copy, or for what is made of it.
    """
    groups = [] if group is None else [Field("group", group, read_labels)]
    columns = [one.column for one in [*fields, *groups]]
    if isinstance(source, HeldRows):
        table, source = source.table(columns), source.name
    else:
        table, source = load_table(source, split, columns, encoding), shown_name(source)
    if len(table) == 0:
        raise DataError(f"data {source!r} has no rows")
    for one in [*fields, *groups]:
        if one.column not in table.columns:
            raise DataError(
                f"data {source!r} has no column {one.column!r}, only {', '.join(table.names)}. "
                f"Name the column with data.{one.key.partition('.')[0]}.{_nested(table)}"
            )
    try:
        rows = read_rows(source, table, fields)
    except (OSError, pa.ArrowException) as error:
        raise load_failure(source, error) from error
    if groups:
        rows = replace(rows, groups=groups[0].read(source, "group", groups[0].column, table))
    if limit is not None and limit < len(table):
        sample = sampled(rows.identities, limit)
        rest = np.setdiff1d(np.arange(len(rows)), sample)
        rows = replace(rows.pick(sample), beyond=rows.pick(rest).targets)
    for one in fields:
        if not one.may_be_blank:
            values = rows.targets if one.is_target else rows.inputs
            refuse_blank(rows, one.column, values[one.key])
    if rows.groups is not None:
        refuse_blank(rows, groups[0].column, rows.groups)
    return rows


def _nested(table: Table) -> str:
    """What is said of one row that may have all others in it."""
    if len(table) > 1 or "data" not in table.names:
        return ""
    return (
        " Or does its one row hold them all in 'data', as SQuAD's own files do? Then write each of "
        "those as an object a line."
    )


def read_rows(source: str, table: Table, fields: Sequence[Field]) -> Rows:
    """The fields of a table that has their columns; blank values are not refused yet."""
    read = {one: one.read(source, one.key, one.column, table) for one in fields}
    return Rows(
        source,
        {one.key: values for one, values in read.items() if not one.is_target},
        {one.key: values for one, values in read.items() if one.is_target},
        places=table.places,
    )


def read_texts(source: str, key: str, column: str, table: Table) -> Sequence[str]:
    """A column as text; what is missing is blank.

    A number is the text that it is written as in a CSV or JSON file, else its decimal text.

    Args:
        source: name of the data.
        key: what the column is: ``text``, ``text_pair``, ...
        column: its name.
        table: that has it.

    Raises:
        DataError: for a value that is no text.
    """
    _say_numbers(source, key, column, table)
    return StoredValues(_texts(source, key, column, table, "text"))


def _texts(source: str, key: str, column: str, table: Table, what: str) -> Iterator[str]:
    for row, value in enumerate(table.columns[column]):
        text = value if type(value) is str else _as_text(value)
        if text is None or not is_unicode(text):
            kind = _KINDS.get(type(value), f"a value of the type {type(value).__name__}")
            raise DataError(
                f"data {source!r}: column {column!r} holds {kind} in {table.places.name(row)}, "
                f"{str(value)[:40]!r}. Write one {what} a row as text, or name another column with "
                f"data.{key}."
            )
        yield text


def read_labels(source: str, key: str, column: str, table: Table) -> Sequence[str]:
    """A column as text without the white space around it; see :func:`read_texts`."""
    num_changed, first = 0, 0

    def stripped() -> Iterator[str]:
        nonlocal num_changed, first
        for row, text in enumerate(_texts(source, key, column, table, key)):
            label = text.strip()
            if label not in (text, ""):
                num_changed, first = num_changed + 1, first if num_changed else row
            yield label

    labels = StoredValues(stripped())
    if num_changed:
        _log.warning(
            "data %r: white space around the %s is left out in %d of %d rows (the first is %s).",
            source,
            key,
            num_changed,
            len(labels),
            table.places.name(first),
        )
    return labels


def _as_text(value: Any) -> str | None:
    """None for what is no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str | bool | datetime.date | datetime.time) or _is_number(value):
        return str(value)
    if isinstance(value, bytes):  # strings of Parquet that are not marked as such
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBERS) and not isinstance(value, bool)


def _say_numbers(source: str, key: str, column: str, table: Table) -> None:
    """Texts of a file with types that are numbers there."""
    numbers = ((row, value) for row, value in enumerate(table.columns[column]) if _is_number(value))
    found = next(numbers, None)
    if found is not None:
        row, value = found
        _log.warning(
            "data %r: the text in column %r is a number in %d of %d rows (the first is %s, %s); "
            "its digits are taken for the text. Is it the column that data.%s should name?",
            source,
            column,
            1 + sum(1 for _ in numbers),
            len(table),
            table.places.name(row),
            value,
            key,
        )


def is_blank(value: Any) -> bool:
    """Whether a value, as it is read or as it stands in a file, is nothing."""
    if isinstance(value, list | tuple | dict | np.ndarray):
        return len(value) == 0
    text = _as_text(value)
    return text is not None and not text.strip()


def refuse_blank(rows: Rows, column: str, values: Iterable[Any]) -> None:
    """Refuse rows of which some value is blank.

    Raises:
        DataError: naming the first.
    """
    blank = (row for row, value in enumerate(values) if is_blank(value))
    first = next(blank, None)
    if first is not None:
        raise DataError(
            f"data {rows.source!r}: column {column!r} is empty in {1 + sum(1 for _ in blank)} of "
            f"{len(rows)} rows (the first is {rows.place(first)}). Fill or remove them."
        )
