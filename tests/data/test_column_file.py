"""A column that is gathered in a file is the column of the same rows in memory."""

import numpy as np
import torch

from afcore.data.column_file import ColumnFile
from afcore.data.examples import Column, padded


def test_it_is_the_column_of_all_rows() -> None:
    rows = [[5, 6, 7], [], [8], [9, 10]]
    file = ColumnFile()
    file.add(rows[:2])
    file.add(rows[2:])
    found, expected = file.column(), Column.of(rows)
    assert found.offsets is not None
    assert expected.offsets is not None
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    assert (found.values.dtype, found.offsets.dtype) == (np.int32, np.int64)
    batch, mask = padded(found, np.asarray([3, 0]), 0, torch.device("cpu"))
    assert batch.tolist() == [[9, 10, 0], [5, 6, 7]]
    assert mask is not None


def test_without_values() -> None:
    file = ColumnFile()
    file.add([[], []])
    found = file.column()
    assert len(found) == 2
    assert len(found.values) == 0
