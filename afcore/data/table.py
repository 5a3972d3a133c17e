"""Columns of a source, whose rows know where they stand."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from afcore.data.column_file import ColumnFile
from afcore.data.stored_values import PickedValues, RepeatedValues, StoredValues
from afcore.errors import DataError

__all__ = ["Parts", "Places", "ReadColumn", "Table", "read_tables"]


@dataclass(frozen=True)
class Places:
    """Where rows stand in their source.

    Attributes:
        unit: ``line`` of the file, counted from 1, or ``row`` of the source, counted from 0.
        numbers: [n] of each row.
        files: [n] of each row, where the source is several files.
    """

    unit: Literal["line", "row"]
    numbers: Sequence[int] | npt.NDArray[np.int64]
    files: Sequence[str] | None = None

    def name(self, row: int) -> str:
        """How a person finds a row."""
        number = self.numbers[row]
        place = f"line {number}" if self.unit == "line" else f"row {number}, counted from 0"
        return place if self.files is None else f"{place}, of {self.files[row]!r}"

    def pick(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> "Places":
        """Of some of the rows."""
        ids = np.asarray(rows, dtype=np.int64)
        files = None if self.files is None else PickedValues(self.files, ids)
        return Places(self.unit, PickedValues(self.numbers, ids), files)  # type: ignore[arg-type]

    def repeated(self, sizes: npt.NDArray[np.integer]) -> "Places":
        """Of what stands in the rows, so many things in each."""
        numbers, files = (
            None if values is None else RepeatedValues(values, sizes)  # type: ignore[arg-type]
            for values in (self.numbers, self.files)
        )
        assert numbers is not None
        return Places(self.unit, numbers, files)


@dataclass(frozen=True)
class Table:
    """Columns of one length.

    Attributes:
        names: of all columns that the source has.
        columns: the values of those that were asked for and are there, to be gone through as often
            as one likes: lists, or read anew each time.
        places: of the rows.
        types: of all columns, where the source has types.
    """

    names: list[str]
    columns: Mapping[str, Collection[Any]]
    places: Places
    types: dict[str, pa.DataType] | None = None

    def __len__(self) -> int:
        return len(self.places.numbers)


class ReadColumn(Collection[Any]):
    """A column that is read from its source whenever somebody goes through it.

    Args:
        read: the values, from the first.
        count: of them.
    """

    def __init__(self, read: Callable[[], Iterable[Any]], count: int) -> None:
        self._read, self._count = read, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return iter(self._read())

    def __contains__(self, value: object) -> bool:
        return any(value == one for one in self)


Parts = Callable[[Sequence[str]], Iterator[tuple[str, Table]]]
"""Given columns, the tables of one or several files, each with its file, one below the other."""


def read_tables(parts: Parts, columns: Sequence[str], *, name_files: bool) -> Table:
    """Many small tables as a large one, whose columns are read again when they are asked for.

    Args:
        parts: to be called again.
        columns: that are wanted, where they are there.
        name_files: whether places say in which file a row stands.

    Raises:
        DataError: for a file that lacks a column which others have.
    """
    places = ColumnFile(np.int64, is_ragged=False)
    names, there = dict[str, dict[str, None]](), dict[str, dict[str, None]]()
    counts = dict[str, int]()
    for file, part in parts(columns):
        names.setdefault(file, {}).update(dict.fromkeys(part.names))
        there.setdefault(file, {}).update(dict.fromkeys(part.columns))
        counts[file] = counts.get(file, 0) + len(part)
        if len(part):
            places.add(np.asarray(part.places.numbers))
    found = _all_of(there)
    for file, some in there.items():
        lacking = [column for column in found if column not in some and counts[file]]
        if lacking:
            raise DataError(
                f"data: the file {file!r} has no column {lacking[0]!r}, only "
                f"{', '.join(names[file])}, and others of the {len(names)} files have it. Give all "
                "the same columns, or leave it out."
            )
    count = sum(counts.values())
    files = StoredValues(file for file, some in counts.items() for _ in range(some))
    return Table(
        _all_of(names),
        {column: ReadColumn(_reader(parts, column), count) for column in found},
        Places(part.places.unit, places.column().values, files if name_files else None),
        part.types,
    )


def _all_of(names: Mapping[str, Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names.values() for name in some))


def _reader(parts: Parts, column: str) -> Callable[[], Iterator[Any]]:
    def read() -> Iterator[Any]:
        for _, part in parts([column]):
            yield from part.columns.get(column, repeat(None, len(part)))

    return read
