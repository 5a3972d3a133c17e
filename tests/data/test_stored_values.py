"""Values in files are the values in lists."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from afcore.data.stored_values import AT_ONCE, PickedValues, RepeatedValues, StoredValues

COUNT = 2 * AT_ONCE + 7
VALUES: dict[str, list[Any]] = {
    "texts": [f"\u00e9 {i}\n\u4e2d" if i % 3 else "" for i in range(COUNT)],
    "half of a pair": [f"\ud800 {i}" for i in range(COUNT)],
    "numbers": [i * 0.1 if i % 2 else i - 5 for i in range(COUNT)],
    "lists": [[f"w{i}"] * (i % 3) for i in range(COUNT)],
    "objects": [{"role": "user", "content": str(i)} if i % 5 else None for i in range(COUNT)],
}


@pytest.mark.parametrize("kind", VALUES)
def test_they_are_the_values(kind: str) -> None:
    expected = VALUES[kind]
    stored = StoredValues(iter(expected))
    assert len(stored) == COUNT
    assert list(stored) == expected
    assert [stored[i] for i in (0, AT_ONCE, 5, COUNT - 1, -1)] == [
        expected[i] for i in (0, AT_ONCE, 5, COUNT - 1, -1)
    ]
    part = slice(AT_ONCE - 3, 2 * AT_ONCE + 3, 2)
    assert stored[part] == expected[part]
    assert stored == expected
    assert stored != expected[::-1]
    with pytest.raises(IndexError):
        stored[COUNT]


@pytest.mark.parametrize("count", [0, 1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1])
def test_of_any_number(count: int) -> None:
    stored = StoredValues(range(count))
    assert (len(stored), list(stored)) == (count, list(range(count)))


@pytest.mark.parametrize("kind", [list, StoredValues])
def test_some_of_them(kind: Any) -> None:
    values: Sequence[int] = kind(range(COUNT))
    ids = np.arange(3, COUNT, 2)
    picked = PickedValues(values, ids)
    assert picked == ids.tolist()
    again = PickedValues(picked, np.asarray([5, 0]))
    assert (list(again), again[1], again[-1]) == ([13, 3], 3, 3)
    assert list(PickedValues(values, np.empty(0, dtype=np.int64))) == []


def test_so_many_of_each() -> None:
    repeated = RepeatedValues(["a", "b", "c"], np.asarray([2, 0, 3]))
    assert list(repeated) == ["a", "a", "c", "c", "c"]
    assert (len(repeated), repeated[2], repeated[1:3]) == (5, "c", ["a", "c"])
    with pytest.raises(IndexError):
        repeated[5]
