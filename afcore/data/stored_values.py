"""Values of more rows than memory has room for: in a file, but for the last thousand.

Sequences like lists, so that whoever reads them need not know; see docs/decisions/0060.
"""

import json
import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AT_ONCE", "PickedValues", "RepeatedValues", "StoredValues"]

AT_ONCE = 1000
"""Values that are in memory together."""


class _Values(Sequence[Any]):
    """What is equal to a list of the same values; a part of it is a list."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class StoredValues(_Values):
    """Values that JSON has, in order: texts, numbers, nothing, lists and objects of such.

    A tuple may come back as a list. The file has no name, and is gone with the values.

    Args:
        values: all of them.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._file: Any = None
        self._ends = array("q", [0])
        self._part_number, self._part = 0, list[Any]()
        given = iter(values)
        while len(part := list(islice(given, AT_ONCE))) == AT_ONCE:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="autofreeze-data-")  # noqa: SIM115
            content = json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogatepass")
            self._file.write(content)
            self._ends.append(self._ends[-1] + len(content))
        self._last = part
        if self._file is not None:
            self._file.flush()

    def _read(self, number: int) -> list[Any]:
        if number == len(self._ends) - 1:
            return self._last
        if number != self._part_number or not self._part:
            start, end = self._ends[number : number + 2]
            content = os.pread(self._file.fileno(), end - start, start)
            self._part = json.loads(content.decode("utf-8", "surrogatepass"))
            self._part_number = number
        return self._part

    def __len__(self) -> int:
        return (len(self._ends) - 1) * AT_ONCE + len(self._last)

    def __iter__(self) -> Iterator[Any]:
        for number in range(len(self._ends)):
            yield from self._read(number)

    def __getitem__(self, key: Any) -> Any:
        """A value by its number, or a list of some."""
        numbers = range(len(self))[key]
        if isinstance(numbers, int):
            return self._read(numbers // AT_ONCE)[numbers % AT_ONCE]
        return [self[number] for number in numbers]

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._file.close()


class PickedValues(_Values):
    """Some of other values, by their numbers; nothing is copied.

    Args:
        values: of all.
        ids: [n] of those that are picked.
    """

    def __init__(self, values: Sequence[Any], ids: npt.NDArray[np.int64]) -> None:
        self._values, self._ids = values, ids
        if isinstance(values, PickedValues):
            self._values, self._ids = values._values, values._ids[ids]

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, len(self), AT_ONCE):
            yield from self[start : start + AT_ONCE]

    def __getitem__(self, key: Any) -> Any:
        """A value by its number among these, or a list of some."""
        if isinstance(key, slice):
            return [self._values[i] for i in self._ids[key].tolist()]
        return self._values[int(self._ids[key])]


class RepeatedValues(_Values):
    """Each of other values so often, without a copy.

    Args:
        values: of all.
        sizes: [n], how often each.
    """

    def __init__(self, values: Sequence[Any], sizes: npt.NDArray[np.integer]) -> None:
        self._values, self._ends = values, np.cumsum(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, key: Any) -> Any:
        """A value by its number among these, or a list of some."""
        if isinstance(key, slice):
            return [self[number] for number in range(len(self))[key]]
        return self._values[int(np.searchsorted(self._ends, key, side="right"))]
