"""Where each example lies: ragged rows in shards. Pure; no store, no torch.

Three index spaces. An **example id** is ``0..n-1`` as :mod:`afcore.data.examples` gave it. A
**shard** holds the tokens of some examples, one after the other. A **row** of a shard is one
token's hidden state; example ``i`` has rows ``start[i]`` up to ``start[i] + lengths[i]`` of shard
``shard[i]``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["SHARD_BYTES", "RaggedLayout", "plan_layout"]

SHARD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class RaggedLayout:
    """An index from example id to rows.

    Attributes:
        shard: [n] int64, the shard of each example.
        start: [n] int64, its first row there.
        lengths: [n] int64, its tokens.
    """

    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return int(self.shard.max()) + 1

    def examples(self, shard: int) -> npt.NDArray[np.int64]:
        """Example ids of a shard, in the order of their rows."""
        ids = np.flatnonzero(self.shard == shard)
        return ids[np.argsort(self.start[ids], kind="stable")]

    def num_rows(self, shard: int) -> int:
        """Tokens in a shard."""
        return int(self.lengths[self.shard == shard].sum())


def plan_layout(
    lengths: npt.NDArray[np.int64], *, row_bytes: int, shard_bytes: int = SHARD_BYTES
) -> RaggedLayout:
    """Assign examples to shards of about ``shard_bytes``, at random.

    At random, because shards sorted by length would bias a shuffle of shards; the same numbers
    for the same lengths, so that any writer plans the same shards.

    Args:
        lengths: [n] tokens of each example, each at least 1.
        row_bytes: bytes of one token's hidden state.
        shard_bytes: wanted size; an example is never cut, so one may be larger.
    """
    order = np.random.default_rng(len(lengths)).permutation(len(lengths))
    rows_before = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
    num_shards = max(1, round(int(lengths.sum()) * row_bytes / shard_bytes))
    rows_per_shard = -(-int(lengths.sum()) // num_shards)
    _, first, shard_in_order = np.unique(
        rows_before // rows_per_shard, return_index=True, return_inverse=True
    )
    shard = np.empty(len(lengths), dtype=np.int64)
    start = np.empty(len(lengths), dtype=np.int64)
    shard[order] = shard_in_order
    start[order] = rows_before - rows_before[first][shard_in_order]
    return RaggedLayout(shard, start, lengths.astype(np.int64))
