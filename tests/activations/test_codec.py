"""What a stored row gives back."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from afcore.activations.codec import (
    STORED_AS,
    RowFormat,
    as_hidden,
    as_stored,
    round_block,
    round_hidden,
    row_width,
)

DTYPES = ["bf16", "fp32", "int8"]
ROWS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 5), st.integers(1, 9)),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", 768), ("fp32", 1536), ("int8", 388)])
def test_bytes_of_a_row(dtype: Any, expected: int) -> None:
    stored = as_stored(torch.randn(3, 5, 384), dtype).numpy()
    assert RowFormat(dtype, {"h": 384}).row_bytes == stored[0, 0].nbytes == expected
    assert stored.shape == (3, 5, row_width(384, dtype))
    assert stored.dtype == STORED_AS[dtype]


@given(ROWS)
def test_int8_is_off_by_half_a_step_at_most(values: np.ndarray) -> None:
    step = np.abs(values).max(-1, keepdims=True) / 127
    error = np.abs(round_hidden(torch.from_numpy(values), "int8").numpy() - values)
    assert (error <= step * 0.5 * (1 + 1e-4)).all()


@given(ROWS)
def test_bf16_is_off_by_a_256th_at_most_and_fp32_not_at_all(values: np.ndarray) -> None:
    hidden = torch.from_numpy(values)
    error = np.abs(round_hidden(hidden, "bf16").numpy() - values)
    assert (error <= np.abs(values) / 256).all()
    assert torch.equal(round_hidden(hidden, "fp32"), hidden)


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_and_recomputed_are_the_same_numbers(dtype: Any) -> None:
    hidden = torch.randn(3, 5, 32, dtype=torch.bfloat16).float() * 3
    read = as_hidden(as_stored(hidden, dtype).numpy(), dtype)
    assert read.dtype == torch.float32
    assert torch.equal(read, round_hidden(hidden, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_and_rows_of_zeros_are_zeros(dtype: Any) -> None:
    padding = np.zeros((2, 3, row_width(8, dtype)), STORED_AS[dtype])
    assert not as_hidden(padding, dtype).any()
    assert not round_hidden(torch.zeros(2, 8), dtype).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_gathered_from_anywhere_are_decoded(dtype: Any) -> None:
    """Of a map of a file, or a part of a larger array, contiguous or not."""
    hidden = torch.randn(40, 16)
    rows = as_stored(hidden, dtype).numpy()
    expected = round_hidden(hidden, dtype)
    assert torch.equal(as_hidden(rows[7:19:3], dtype), expected[7:19:3])
    ids = np.asarray([[5, 1], [3, 39]])
    assert torch.equal(as_hidden(rows[ids], dtype), expected[torch.from_numpy(ids)])


@pytest.mark.parametrize(
    ("dtype", "between"), [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "bf16")]
)
def test_between_frozen_blocks_int8_is_bf16(dtype: Any, between: Any) -> None:
    hidden = torch.randn(4, 16)
    assert torch.equal(round_block(hidden, dtype), round_hidden(hidden, between))
