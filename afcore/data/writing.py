"""Tables to CSV, JSON lines, Parquet or Arrow, part by part, as they are read."""

import contextlib
import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from afcore.data.formats import Number, is_unicode
from afcore.errors import DataError

__all__ = ["TableWriter", "open_writer", "text_writer"]

Column = tuple[list[Any], pa.DataType | None]
"""Values, and their type where it is known."""


class TableWriter(Protocol):
    """Writes the parts of one table, which have the columns of the first."""

    def write(self, columns: dict[str, Column]) -> None:
        """Write some rows.

        Raises:
            DataError: for a part that does not go with the first.
        """

    def close(self) -> None:
        """Finish the file."""


def open_writer(path: Path, kind: str) -> TableWriter:
    """A writer to a new file.

    Args:
        path: of the file.
        kind: one of :data:`afcore.data.files.FORMATS`.

    Raises:
        OSError: when it cannot be written.
    """
    if kind == "parquet":
        return _TypedWriter(lambda schema: pq.ParquetWriter(path, schema))
    if kind in ("arrow", "feather"):
        return _TypedWriter(lambda schema: pa.ipc.new_file(path, schema))
    return text_writer(path.open("x", encoding="utf-8", newline=""), kind)


def text_writer(stream: IO[str], kind: str) -> TableWriter:
    """A writer to an open stream, which it closes."""
    if kind in ("json", "jsonl"):
        return _JsonWriter(stream)
    return _CsvWriter(stream, "\t" if kind == "tsv" else ",")


class _CsvWriter:
    def __init__(self, stream: IO[str], delimiter: str) -> None:
        self._stream = stream
        self._csv = csv.writer(_Lines(stream), delimiter=delimiter, lineterminator=_Lines.END)
        self._names: list[str] = []

    def write(self, columns: dict[str, Column]) -> None:
        with _explained(columns):
            if not self._names:
                self._names = list(columns)
                self._csv.writerow(self._names)
            _refuse_new(self._names, columns)
            self._csv.writerows(_rows(self._names, columns, _cell))

    def close(self) -> None:
        self._stream.close()


class _Lines:
    """A stream for rows of a CSV, each a line.

    ``csv`` puts quotes around a value with what ends its own lines in it, and readers end a line at
    a carriage return too: so it ends them with both, of which one is written.
    """

    END = "\r\n"

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, row: str) -> None:
        self._stream.write(row.removesuffix(self.END) + "\n")


class _JsonWriter:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, columns: dict[str, Column]) -> None:
        names = list(columns)
        for row in _rows(names, columns, _plain):
            values = dict(zip(names, row, strict=True))
            row_json = json.dumps(values, ensure_ascii=False)
            if not is_unicode(row_json):  # half of a surrogate pair, which it was read as too
                row_json = json.dumps(values)
            self._stream.write(row_json + "\n")

    def close(self) -> None:
        self._stream.close()


class _TypedWriter:
    def __init__(self, begin: Callable[[pa.Schema], Any]) -> None:
        self._begin = begin
        self._file: Any = None
        self._types: dict[str, pa.DataType] = {}

    def write(self, columns: dict[str, Column]) -> None:
        with _explained(columns):
            if self._file is None:
                self._types = {
                    name: kind or _guess(values) for name, (values, kind) in columns.items()
                }
                self._file = self._begin(pa.schema(list(self._types.items())))
            _refuse_new(list(self._types), columns)
            count = len(next(iter(columns.values()))[0])
            arrays = {
                name: _array(name, columns[name][0] if name in columns else [None] * count, kind)
                for name, kind in self._types.items()
            }
            self._file.write_table(pa.table(arrays, schema=pa.schema(list(self._types.items()))))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _rows(names: list[str], columns: dict[str, Column], shown: Any) -> Iterable[list[Any]]:
    given = [columns[name][0] if name in columns else None for name in names]
    for row in range(len(next(iter(columns.values()))[0])):
        yield [None if values is None else shown(values[row]) for values in given]


def _refuse_new(names: list[str], columns: dict[str, Column]) -> None:
    new = [name for name in columns if name not in names]
    if new:
        raise DataError(
            f"the column {new[0]!r} first stands in a row far down the data, behind rows that are "
            "written already. Write JSON lines, with an output that ends in .jsonl"
        )


def _cell(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple | dict):
        return json.dumps(_plain(value), ensure_ascii=False)
    return value


def _plain(value: Any) -> Any:
    """As JSON has it; what JSON cannot say, as text."""
    if isinstance(value, Number):
        return json.loads(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _guess(values: list[Any]) -> pa.DataType:
    """Text where values are of several types, or there are none."""
    try:
        kind = pa.array([_plain(value) for value in values]).type
    except (pa.ArrowException, UnicodeEncodeError):
        return pa.string()
    return pa.string() if pa.types.is_null(kind) else kind


def _array(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        if pa.types.is_string(kind):
            return pa.array([v if v is None else str(_cell(v)) for v in values], kind)
        plain = [_plain(value) if isinstance(value, Number) else value for value in values]
        return pa.array(plain, kind)
    except pa.ArrowException as error:
        raise DataError(
            f"the column {name!r} has values of another type than in the first rows ({kind}). "
            "Write JSON lines, with an output that ends in .jsonl"
        ) from error


@contextlib.contextmanager
def _explained(columns: dict[str, Column]) -> Iterator[None]:
    """Say in which column a text is that only JSON can say."""
    try:
        yield
    except UnicodeEncodeError as error:
        cells = (
            (name, text)
            for name, (values, _) in columns.items()
            for text in (name, *(str(_cell(value)) for value in values))
        )
        name, text = next((name, text) for name, text in cells if not is_unicode(text))
        raise DataError(
            f"the column {name!r} holds a text that is not Unicode (half of a surrogate pair), "
            f"{text[:40]!r}. Write JSON lines, with an output that ends in .jsonl"
        ) from error
