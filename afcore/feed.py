"""Hidden states of any batch, from the best tier that fits: host memory, else local disk.

A set is read from the store once, whole shards at a time, into one contiguous array; batches are
then gathered from there.
"""

import logging
import os
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
from torch import Tensor

from afcore.activations.codec import as_hidden
from afcore.activations.materialize import PrefixRunner, pad, read_or_repair
from afcore.activations.sets import ActivationSet

__all__ = ["HiddenFeed"]

_HOST_SHARE = 0.5
_log = logging.getLogger(__name__)


class HiddenFeed:
    """The hidden states of one activation set, by example id.

    Args:
        activation_set: to read, whole, now.
        runner: computes damaged shards again.
        host_bytes: largest set held in host memory; a larger one is kept in a file on local disk.
            None: half of the memory that is free.
    """

    def __init__(
        self, activation_set: ActivationSet, runner: PrefixRunner, host_bytes: int | None = None
    ) -> None:
        manifest, layout = activation_set.manifest, activation_set.layout
        if host_bytes is None:
            host_bytes = int(psutil.virtual_memory().available * _HOST_SHARE)
        self.num_bytes = manifest.num_bytes
        self.tier = "host memory" if manifest.num_bytes <= host_bytes else "local disk"
        self._dtype = manifest.dtype
        self._lengths = layout.lengths
        rows_of = np.asarray([shard.num_rows for shard in manifest.shards])
        first_row = np.concatenate([[0], np.cumsum(rows_of)])
        self._start = first_row[layout.shard] + layout.start
        self._rows: npt.NDArray[Any] | None = None
        for shard, first in enumerate(first_row[:-1]):
            rows = read_or_repair(activation_set, shard, runner)
            if self._rows is None:
                self._rows = self._allocate((manifest.num_rows, rows.shape[1]), rows.dtype)
            self._rows[first : first + len(rows)] = rows
        _log.info(
            "activations@%d: %.0f MB in %s", manifest.boundary, self.num_bytes / 1e6, self.tier
        )

    def batch(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """Hidden states of a batch.

        Args:
            ids: [b] example ids.

        Returns:
            [b, s, h] float32 on the CPU, zeros where padded.
        """
        assert self._rows is not None
        starts = self._start[ids]
        rows = [
            as_hidden(self._rows[start : start + length], self._dtype)
            for start, length in zip(starts, self._lengths[ids], strict=True)
        ]
        return pad(rows)

    def batch_bytes(self, ids: npt.NDArray[np.int64]) -> int:
        """Bytes of activations that a batch takes, without padding."""
        assert self._rows is not None
        return int(self._lengths[ids].sum()) * self._rows[:1].nbytes

    def _allocate(self, shape: tuple[int, int], dtype: Any) -> npt.NDArray[Any]:
        if self.tier == "host memory":
            return np.empty(shape, dtype=dtype)
        with tempfile.TemporaryFile(prefix="autofreeze-") as file:  # the map keeps it alive
            # Taken now: a disk that fills up later would kill the process without a word.
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            return np.memmap(file, dtype=dtype, mode="w+", shape=shape)
