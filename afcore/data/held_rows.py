"""Rows that the caller holds in memory, in the shapes that people hold them, as a table.

A ``datasets.Dataset``, a pandas ``DataFrame``, a list of dicts or a dict of columns. Values are
read as those of a file with types are: by who asks for the field.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np

from afcore.data.stored_values import AT_ONCE
from afcore.data.table import Places, ReadColumn, Table
from afcore.data.typed_formats import class_names
from afcore.errors import DataError

__all__ = ["HeldRows", "dataset_table", "hold_rows"]

_WANTED = (
    "Give a datasets.Dataset, a pandas DataFrame, a list of dicts, a dict of columns, or the name "
    "of a file or hub data set"
)


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory, under the name that messages and records have for them.

    Attributes:
        name: of the data.
        rows: of one of the kinds that :func:`hold_rows` takes.
    """

    name: str
    rows: Any

    def table(self, columns: Sequence[str]) -> Table:
        """All of the rows, and of their columns those that are wanted and there.

        Raises:
            DataError: for what is no table.
        """
        if isinstance(self.rows, datasets.Dataset):
            return dataset_table(self.name, self.rows, columns)
        if _is_frame(self.rows):
            return _frame_table(self.name, self.rows, columns)
        if isinstance(self.rows, Mapping):
            return _columns_table(self.name, self.rows, columns)
        return _dicts_table(self.name, self.rows, columns)


def hold_rows(name: str, rows: Any) -> HeldRows:
    """Rows of a known kind.

    Args:
        name: of the data, in messages and records.
        rows: a ``datasets.Dataset``, a pandas ``DataFrame``, a list of dicts, a dict of columns.

    Raises:
        DataError: for anything else.
    """
    if isinstance(rows, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise DataError(
            f"data {name!r}: a {type(rows).__name__} holds several splits ({', '.join(rows)}). "
            f"Give one of them, e.g. data[{next(iter(rows), 'train')!r}]"
        )
    if isinstance(rows, datasets.IterableDataset):
        raise DataError(
            f"data {name!r}: an IterableDataset is read once, and rows are needed again. Give "
            "datasets.Dataset.from_list(list(rows))"
        )
    known = isinstance(rows, datasets.Dataset | Mapping | list | tuple) or _is_frame(rows)
    if not known:
        raise DataError(f"data {name!r}: got {type(rows).__name__}. {_WANTED}")
    return HeldRows(name, rows)


def dataset_table(name: str, dataset: Any, columns: Sequence[str]) -> Table:
    """Some columns of a ``datasets.Dataset``; classes by their names.

    As they are stored: not as the tensors or arrays that ``set_format`` makes of them.
    """
    names = list(dataset.column_names)
    if dataset.format["type"] != "custom":  # a user's own function may change texts
        dataset = dataset.with_format(None)
    for column, kind in dataset.features.items():
        if isinstance(kind, datasets.Image):  # files and where they lie, not all pixels
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    found = {
        column: ReadColumn(partial(_read_dataset, name, dataset, column), dataset.num_rows)
        for column in columns
        if column in names
    }
    return Table(names, found, Places("row", range(dataset.num_rows)))


def _read_dataset(name: str, dataset: Any, column: str) -> Iterator[Any]:
    """Some rows at a time, as its file is mapped."""
    alone = dataset.select_columns([column])
    for first in range(0, dataset.num_rows, AT_ONCE):
        values = alone[first : first + AT_ONCE][column]
        yield from class_names(name, column, values, dataset.features[column], first=first)


def _is_frame(rows: Any) -> bool:
    """Who holds one has imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(rows, pandas.DataFrame)


def _frame_table(name: str, frame: Any, columns: Sequence[str]) -> Table:
    names = [str(column) for column in frame.columns]
    found = {}
    for column in columns:
        if names.count(column) > 1:
            raise DataError(f"data {name!r} has {names.count(column)} columns {column!r}; keep one")
        if column in names:
            series = frame.iloc[:, names.index(column)]
            lacking = series.isna()
            values = series.astype(object).tolist()
            found[column] = [
                None if lacks else _plain(value)
                for value, lacks in zip(values, lacking, strict=True)
            ]
    return Table(names, found, Places("row", range(len(frame))))


def _columns_table(name: str, rows: Mapping[str, Any], columns: Sequence[str]) -> Table:
    names = [str(column) for column in rows]
    for column, given in rows.items():
        if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
            raise DataError(
                f"data {name!r}: column {str(column)!r} is a {type(given).__name__}, where the "
                "values of all rows were expected. Give a list, also for one row"
            )
    values = {str(column): list(given) for column, given in rows.items()}
    lengths = {column: len(given) for column, given in values.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{column!r} {length}" for column, length in lengths.items())
        raise DataError(f"data {name!r}: columns of different lengths ({shown})")
    found = {column: list(map(_plain, values[column])) for column in columns if column in values}
    return Table(names, found, Places("row", range(max(lengths.values(), default=0))))


def _dicts_table(name: str, rows: Sequence[Any], columns: Sequence[str]) -> Table:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(
                f"data {name!r}: row {number}, counted from 0, is a {type(row).__name__}, not a "
                "dict. Write each row as {'text': ..., 'label': ...}"
            )
    names = list(dict.fromkeys(str(column) for row in rows for column in row))
    found = {
        column: [_plain(row.get(column)) for row in rows] for column in columns if column in names
    }
    return Table(names, found, Places("row", range(len(rows))))


def _plain(value: Any) -> Any:
    """A value of NumPy, also within others, as Python's; pixels, which have more axes, stay."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value if value.ndim > 1 else _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
