"""Columns that are gathered in files: the tokens of more rows than memory has room for."""

import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.data.examples import Column
from afcore.data.stored_values import AT_ONCE
from afcore.data.tensor_file import bytes_of

__all__ = ["ColumnFile", "column_of", "file_array"]

_PREFIX = "autofreeze-data-"


class ColumnFile:
    """Values of some examples after others; at the end a column that is a mapped file.

    The file has no name, and is gone with the column.

    Args:
        dtype: of the values.
        is_ragged: whether an example has a row of values; else it has one, of any shape.
    """

    def __init__(self, dtype: Any = np.int32, *, is_ragged: bool = True) -> None:
        self._dtype, self._shape = np.dtype(dtype), tuple[int, ...]()
        self._file: Any = tempfile.TemporaryFile(prefix=_PREFIX)  # noqa: SIM115
        self._sizes = ColumnFile(np.int64, is_ragged=False) if is_ragged else None

    def add(self, rows: Sequence[Any] | npt.NDArray[Any]) -> None:
        """The values of the examples that come next, at least one."""
        if self._sizes is None:
            values = np.asarray(rows, dtype=self._dtype)
        else:
            values = np.concatenate([np.asarray(row, dtype=self._dtype) for row in rows])
            self._sizes.add([len(row) for row in rows])
        self._shape = values.shape[1:]
        self._file.write(bytes_of(values))

    def column(self) -> Column:
        """All of them; nothing can be added afterwards."""
        with self._file as file:
            file.flush()
            values = _mapped(file, self._dtype).reshape(-1, *self._shape)
        if self._sizes is None:
            return Column(values)
        sizes = self._sizes.column().values
        offsets = file_array(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        return Column(values, offsets)

    def __del__(self) -> None:
        """Rows that are refused leave it behind."""
        self._file.close()


def column_of(encode: Callable[[list[Any]], npt.NDArray[Any]], values: Sequence[Any]) -> Column:
    """[n, ...], a column of what ``encode`` gives for some of the values after others."""
    file: ColumnFile | None = None
    for start in range(0, len(values), AT_ONCE):
        part = encode(list(values[start : start + AT_ONCE]))
        file = file or ColumnFile(part.dtype, is_ragged=False)
        file.add(part)
    return Column(encode([])) if file is None else file.column()


def file_array(count: int, dtype: Any) -> npt.NDArray[Any]:
    """[count] zeros that lie in a file without a name, and may be changed.

    Raises:
        OSError: when there is no space left for it. A file with holes would be there, and whoever
            writes to its memory be killed.
    """
    with tempfile.TemporaryFile(prefix=_PREFIX) as file:
        if num_bytes := count * np.dtype(dtype).itemsize:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        return _mapped(file, dtype, mmap.ACCESS_WRITE)


def _mapped(file: Any, dtype: Any, access: int = mmap.ACCESS_READ) -> npt.NDArray[Any]:
    if not file.seek(0, 2):
        return np.empty(0, dtype=dtype)
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=access), dtype=dtype)
