"""Parquet and Arrow, whose values have the types of their columns; classes by their names.

Arrow is what ``datasets`` keeps (a stream) and Feather 2 (a file). Rows are counted from 0. A file
is read in one table or in many, as by :mod:`afcore.data.formats`.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from afcore.data.formats import Columns, refuse_twice
from afcore.data.table import Places, Table
from afcore.errors import DataError

__all__ = ["class_names", "read_arrow", "read_parquet"]

_FILE_MAGIC = b"ARROW1"
_BUFFER_BYTES = 2**20  # of a column, instead of all that a row group has of it


def read_parquet(
    source: str, file: Any, columns: Columns, num_rows: int | None = None
) -> Iterator[Table]:
    """The columns' values, those of a ``ClassLabel`` by their names.

    Args:
        source: in messages.
        file: a path, or a file that is open.
        columns: to read; None: all.
        num_rows: of a table at most; None: one table has all.

    Raises:
        DataError: for a value of a ``ClassLabel`` that names no class, or two columns of one name.
    """
    parquet = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES)
    schema = parquet.schema_arrow
    refuse_twice(source, schema.names, columns)
    wanted = _wanted(schema, columns)
    if num_rows is None or not parquet.metadata.num_rows:
        parts = iter([parquet.read(columns=wanted)])
    else:
        parts = parquet.iter_batches(batch_size=num_rows, columns=wanted)
    return _tables(source, schema, parts, columns)


def read_arrow(
    source: str, file: Any, columns: Columns, num_rows: int | None = None
) -> Iterator[Table]:
    """As :func:`read_parquet`, of Arrow's own format, a stream or a file.

    Raises:
        DataError: for a file of another format, or a value of a ``ClassLabel`` that is no class.
    """
    magic = file.read(len(_FILE_MAGIC))
    file.seek(0)
    try:
        if magic == _FILE_MAGIC:
            reader = pa.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(file)
            batches = iter(reader)
        schema = reader.schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"data {source!r} is no Arrow file or stream ({' '.join(str(error).split())}). Feather "
            "1 is not read: write it as Feather 2 or Parquet."
        ) from error
    refuse_twice(source, schema.names, columns)
    if num_rows is None:
        parts: Iterable[Any] = [pa.Table.from_batches(list(batches), schema)]
    else:
        parts = _of_size(batches, schema, num_rows)
    return _tables(source, schema, parts, columns)


def _of_size(batches: Iterable[Any], schema: pa.Schema, num_rows: int) -> Iterator[Any]:
    """At least one, as an empty file has columns too."""
    empty = True
    for batch in batches:
        for start in range(0, batch.num_rows, num_rows):
            empty = False
            yield batch.slice(start, num_rows)
    if empty:
        yield pa.Table.from_batches([], schema)


def _wanted(schema: pa.Schema, columns: Columns) -> list[str]:
    return [name for name in schema.names if columns is None or name in columns]


def _tables(
    source: str, schema: pa.Schema, parts: Iterable[Any], columns: Columns
) -> Iterator[Table]:
    kinds: dict[str, Any] = {}
    if b"huggingface" in (schema.metadata or {}):
        kinds = datasets.Features.from_arrow_schema(schema)
    types = {f.name: _named_type(kinds.get(f.name), f.type) for f in schema}
    done = 0
    for part in parts:
        values = {
            column: class_names(
                source,
                column,
                part.column(column).to_pylist(),
                kinds.get(column),
                first=done,
                may_lack=columns is None,
            )
            for column in _wanted(schema, columns)
        }
        rows = range(done, done + part.num_rows)
        yield Table(schema.names, values, Places("row", rows), types)
        done += part.num_rows


def _named_type(kind: Any, otherwise: pa.DataType) -> pa.DataType:
    if hasattr(kind, "names"):
        return pa.string()
    if hasattr(getattr(kind, "feature", None), "names"):
        return pa.list_(pa.string())
    return otherwise


def class_names(
    source: str,
    column: str,
    values: Iterable[Any],
    kind: Any,
    *,
    first: int = 0,
    may_lack: bool = False,
) -> list[Any]:
    """Integers of a ``ClassLabel``, or of a list of such, become their names.

    Args:
        source: in messages.
        column: the same.
        values: of some rows of the column.
        kind: of the column, as ``datasets`` describes it.
        first: number of the first of these rows.
        may_lack: whether -1, by which hub data sets say "no label", becomes None.

    Raises:
        DataError: for a number that names no class.
    """
    is_list = getattr(kind, "names", None) is None
    names = getattr(getattr(kind, "feature", None) if is_list else kind, "names", None)
    if names is None:
        return list(values)
    known: dict[Any, Any] = {None: None, **dict(enumerate(names))}
    if may_lack:
        known[-1] = None

    def named(row: int, number: Any) -> Any:
        if number not in known:
            raise DataError(
                f"data {source!r}: column {column!r} has {number} in row {row}, counted from 0, "
                f"which is none of its {len(names)} classes. -1 stands for no label, as "
                "in test sets whose labels are not published: take another split, or only the "
                "rows that have one."
            )
        return known[number]

    if not is_list:
        return [named(row, number) for row, number in enumerate(values, first)]
    return [
        None if some is None else [named(row, number) for number in some]
        for row, some in enumerate(values, first)
    ]
