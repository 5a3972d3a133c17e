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
        shard_rows: [s] int64, rows of each shard, where shards hold rows of no example (of one
            that has left) or rows of several (of equal ones); None: neither.
    """

    shard: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    shard_rows: npt.NDArray[np.int64] | None = None

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return int(self.shard.max()) + 1

    def examples(self, shard: int) -> npt.NDArray[np.int64]:
        """Example ids of a shard, in the order of their rows."""
        ids = np.flatnonzero(self.shard == shard)
        return ids[np.argsort(self.start[ids], kind="stable")]

    @property
    def rows_by_shard(self) -> npt.NDArray[np.int64]:
        """[s] int64, rows of each shard."""
        if self.shard_rows is not None:
            return self.shard_rows
        return np.bincount(self.shard, weights=self.lengths).astype(np.int64)

    def num_rows(self, shard: int) -> int:
        """Of a shard."""
        return int(self.rows_by_shard[shard])

    def rows_of(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Rows of some examples of one shard, one after the other."""
        lengths = self.lengths[ids]
        first = np.repeat(self.start[ids] - np.cumsum(lengths) + lengths, lengths)
        return first + np.arange(int(lengths.sum()))

    def compact(self) -> "RaggedLayout":
        """The same examples in the same shards, which hold nothing else, and each its own rows."""
        if self.shard_rows is None:
            return self
        order = np.lexsort((np.arange(len(self.shard)), self.start, self.shard))
        lengths, shard = self.lengths[order], self.shard[order]
        before = np.cumsum(lengths) - lengths
        _, first, inverse = np.unique(shard, return_index=True, return_inverse=True)
        start = np.empty_like(self.start)
        start[order] = before - before[first][inverse]
        return RaggedLayout(self.shard, start, self.lengths)


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
