"""A ragged column that is gathered in a file: the tokens of more rows than memory has room for."""

import mmap
import tempfile
from array import array
from typing import Any

import numpy as np

from afcore.data.examples import Column
from afcore.data.tensor_file import bytes_of

__all__ = ["ColumnFile"]


class ColumnFile:
    """Values of some examples after others, as int32; at the end a column that is a mapped file.

    The file has no name, and is gone with the column.
    """

    def __init__(self) -> None:
        self._file: Any = tempfile.TemporaryFile(prefix="autofreeze-data-")  # noqa: SIM115
        self._ends = array("q", [0])

    def add(self, rows: list[list[int]]) -> None:
        """The values of the examples that come next."""
        part = Column.of(rows)
        assert part.offsets is not None
        self._file.write(bytes_of(part.values))
        self._ends.frombytes((part.offsets[1:] + self._ends[-1]).tobytes())

    def column(self) -> Column:
        """All of them; nothing can be added afterwards."""
        values = np.empty(0, dtype=np.int32)
        with self._file as file:
            file.flush()
            if self._ends[-1]:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                values = np.frombuffer(mapped, dtype=np.int32)
        return Column(values, np.frombuffer(self._ends, dtype=np.int64))

    def __del__(self) -> None:
        """Rows that are refused leave it behind."""
        self._file.close()
