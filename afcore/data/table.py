"""Columns of a source, whose rows know where they stand."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from afcore.errors import DataError

__all__ = ["Places", "Table", "joined"]


@dataclass(frozen=True)
class Places:
    """Where rows stand in their source.

    Attributes:
        unit: ``line`` of the file, counted from 1, or ``row`` of the source, counted from 0.
        numbers: [n] of each row.
        files: [n] of each row, where the source is several files.
    """

    unit: Literal["line", "row"]
    numbers: Sequence[int]
    files: Sequence[str] | None = None

    def name(self, row: int) -> str:
        """How a person finds a row."""
        number = self.numbers[row]
        place = f"line {number}" if self.unit == "line" else f"row {number}, counted from 0"
        return place if self.files is None else f"{place}, of {self.files[row]!r}"

    def pick(self, rows: Iterable[int]) -> "Places":
        """Of some of the rows."""
        rows = [int(row) for row in rows]
        files = None if self.files is None else [self.files[row] for row in rows]
        return Places(self.unit, array("q", (self.numbers[row] for row in rows)), files)


@dataclass(frozen=True)
class Table:
    """Columns of one length.

    Attributes:
        names: of all columns that the source has.
        columns: the values of those that were asked for and are there.
        places: of the rows.
        types: of all columns, where the source has types.
    """

    names: list[str]
    columns: dict[str, list[Any]]
    places: Places
    types: dict[str, pa.DataType] | None = None

    def __len__(self) -> int:
        return len(self.places.numbers)


def joined(tables: dict[str, Table]) -> Table:
    """The tables of several files, by their names, below each other.

    Raises:
        DataError: for a file that lacks a column which others have.
    """
    parts = list(tables.values())
    columns = dict.fromkeys(column for part in parts for column in part.columns)
    for file, part in tables.items():
        lacking = [column for column in columns if column not in part.columns and len(part)]
        if lacking:
            raise DataError(
                f"data: the file {file!r} has no column {lacking[0]!r}, only "
                f"{', '.join(part.names)}, and others of the {len(tables)} files have it. Give all "
                "the same columns, or leave it out."
            )
    full = [part for part in parts if len(part)]
    return Table(
        list(dict.fromkeys(name for part in parts for name in part.names)),
        {column: [value for part in full for value in part.columns[column]] for column in columns},
        Places(
            parts[0].places.unit,
            array("q", (number for part in parts for number in part.places.numbers)),
            [file for file, part in tables.items() for _ in range(len(part))],
        ),
    )
