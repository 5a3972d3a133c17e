import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from afcore.activations.gather import gather_bf16_rows, gather_device_rows, gather_rows


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=12))
def test_padded_batches_from_host_and_device(examples: list[tuple[int, int]]) -> None:
    shards = np.asarray([shard for shard, _ in examples])
    lengths = np.asarray([length for _, length in examples])
    starts = np.asarray([3 * i for i in range(len(examples))])
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 99, (60, 4), dtype=np.int16) for _ in range(3)]
    expected = np.zeros((len(examples), lengths.max(), 4), np.int16)
    for number, (shard, start, length) in enumerate(zip(shards, starts, lengths, strict=True)):
        expected[number, :length] = rows[shard][start : start + length]

    out = np.full_like(expected, -1)
    gather_rows([rows[s] for s in shards], starts, lengths, out)
    assert np.array_equal(out, expected)

    # Shard 1 is not on the device: its examples come out as zeros.
    tier = torch.from_numpy(np.concatenate([rows[2], rows[0], np.zeros((1, 4), np.int16)]))
    found = gather_device_rows(tier, {2: 0, 0: 60}, shards, starts, lengths, lengths.max())
    expected[shards == 1] = 0
    assert np.array_equal(found.numpy(), expected)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9)), min_size=1, max_size=12),
    st.integers(1, 5),
)
def test_bf16_becomes_float32_bit_by_bit_in_memory_that_was_used(
    examples: list[tuple[int, int]], width: int
) -> None:
    lengths = np.asarray([length for _, length in examples])
    starts = np.asarray([3 * i for i in range(len(examples))])
    rng = np.random.default_rng(0)
    shards = [rng.integers(0, 2**16, (60, width), dtype=np.uint16) for _ in range(3)]
    rows = [shards[shard] for shard, _ in examples]
    stored = np.zeros((len(examples), lengths.max(), width), np.uint16)
    gather_rows(rows, starts, lengths, stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", _ones)
        found = gather_bf16_rows(rows, starts, lengths)
    expected = torch.from_numpy(stored).view(torch.bfloat16).float()
    assert found.dtype == torch.float32
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def _ones(size: int, dtype: torch.dtype) -> torch.Tensor:
    """Memory in which every bit is set."""
    return torch.full((size,), -1, dtype=torch.int32).view(dtype)
