"""A padded batch out of ragged rows. No threads, no store.

Rows are copied an example at a time (its rows lie together: one copy of some 10 kB each) into one
padded array: as they are stored, to be decoded all at once (stored zeros decode to zeros), or bf16
as float32. The latter needs no operator of torch, all of whose threads wait for one that something
else keeps from its core.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["gather_bf16_rows", "gather_device_rows", "gather_rows"]

_HUGE_PAGES_FROM = 1 << 22
"""Bytes from which on numpy asks the system for huge pages: a fifth of the time of a batch."""


def gather_rows(
    rows: Sequence[npt.NDArray[Any]],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    out: npt.NDArray[Any],
) -> None:
    """Copy examples into a padded batch, zeros on the right.

    Args:
        rows: [b] of [t_i, w] stored rows of the shard of each example.
        starts: [b] first row of each example in its shard.
        lengths: [b] its rows.
        out: [b, s, w] of the same type; s is at least the longest.
    """
    spans = zip(rows, starts.tolist(), lengths.tolist(), strict=True)
    for number, (source, start, length) in enumerate(spans):
        out[number, :length] = source[start : start + length]
        out[number, length:].fill(0)


def gather_bf16_rows(
    rows: Sequence[npt.NDArray[np.uint16]],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
) -> Tensor:
    """Examples kept as bf16 in a padded batch of float32, zeros on the right.

    In memory, a float32 that was a bf16 is two bytes of zeros and then the bf16; a uint16 copied to
    a uint32 is itself and then two bytes of zeros. So the copy goes two bytes further on than the
    batch, and its zeros begin the float32 after it: one pass, where a shift would be another.

    Args:
        rows: [b] of [t_i, h] stored rows of the shard of each example.
        starts: [b] first row of each example in its shard.
        lengths: [b] its rows.

    Returns:
        [b, s, h] float32; s is the longest.
    """
    num_columns, width = int(lengths.max()), rows[0].shape[1]
    num_items = len(rows) * num_columns * width
    room = np.empty(max(num_items + 1, _HUGE_PAGES_FROM // 4), dtype=np.float32)
    items = room[: num_items + 1]  # the last one for the last zeros
    batch = items[:-1].reshape(-1, width)
    further_on = items.view(np.uint8)[2:-2].view(np.uint32).reshape(-1, width)
    batch[::num_columns, 0] = 0  # these come after no copy
    row = 0
    for source, start, length in zip(rows, starts.tolist(), lengths.tolist(), strict=True):
        end = row + length
        further_on[row:end] = source[start : start + length]
        row += num_columns
        batch[end:row].fill(0)
    return torch.from_numpy(batch).view(-1, num_columns, width)


def gather_device_rows(
    rows: Tensor,
    first: Mapping[int, int],
    shards: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    num_columns: int,
) -> Tensor:
    """Examples of the device tier in a padded batch, gathered on the device.

    Args:
        rows: [t + 1, w] all rows of the tier, the last one of zeros.
        first: where the rows of a shard begin; an example of any other shard comes out as zeros.
        shards: [b] the shard of each example.
        starts: [b] first row of each example in its shard.
        lengths: [b] its rows.
        num_columns: s, at least the longest.

    Returns:
        [b, s, w] on the device.
    """
    zeros = len(rows) - 1
    offset = np.asarray([first.get(shard, -1) for shard in shards.tolist()])
    column = np.arange(num_columns)
    real = (column < lengths[:, None]) & (offset >= 0)[:, None]
    index = torch.from_numpy(np.where(real, (offset + starts)[:, None] + column, zeros))
    if rows.device.type == "cuda":
        index = index.pin_memory()
    flat = index.to(rows.device, non_blocking=True).view(-1)
    return rows.index_select(0, flat).view(len(shards), num_columns, rows.shape[1])
