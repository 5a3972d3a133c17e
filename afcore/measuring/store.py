"""Measure store and host memory: a set of one shard is written, read, gathered from and deleted.

It goes through the same code as every activation set, so that format and checksums are in the
figures. Of local files, a shard just written comes from the page cache, as a set just built does.
"""

import time
import uuid
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.activations.feed import HiddenFeed
from afcore.activations.layout import SHARD_BYTES
from afcore.activations.materialize import PrefixRunner
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet, ActivationWriter, NewSet
from afcore.activations.tiers import Budgets
from afcore.digest import RecipeDigest
from afcore.planning.profile import Bandwidths
from afcore.storage.objects import Storage

__all__ = ["probe_bandwidths"]


def probe_bandwidths(
    storage: Storage,
    folder: str,
    runner: PrefixRunner,
    batches: list[npt.NDArray[np.int64]],
    *,
    probe_bytes: int = SHARD_BYTES,
) -> Bandwidths:
    """Write and read a tiny set, then one of about ``probe_bytes``.

    Args:
        storage: of the run.
        folder: of activation sets; the probe lies in it for a moment. Left behind by a kill, it is
            collected as any set that nobody uses.
        runner: of the training split; the rows of one example are computed, and repeated.
        batches: of an epoch; the probe takes the first ones, at least one.
        probe_bytes: the size of a shard.
    """
    rows = runner.rows(batches[0][:1], [1])
    row_bytes = rows[:1].nbytes
    # The probe's example i is the i-th that the epoch meets.
    lengths = runner.lengths[np.concatenate(batches)]
    ends = np.cumsum([len(ids) for ids in batches])
    num_batches = max(1, int((np.cumsum(lengths)[ends - 1] * row_bytes <= probe_bytes).sum()))
    probed = np.split(np.arange(ends[num_batches - 1]), ends[: num_batches - 1])
    _Probe(storage, folder, runner, rows, lengths[:1]).run()  # first use of the libraries
    tiny = _Probe(storage, folder, runner, rows, lengths[:1])
    tiny.run()
    full = _Probe(storage, folder, runner, rows, lengths[: ends[num_batches - 1]])
    full.run(probed)
    size = int(lengths[: ends[num_batches - 1]].sum()) * row_bytes
    latency = min(tiny.read_seconds, tiny.write_seconds, full.read_seconds / 2)
    return Bandwidths(
        shard_bytes=SHARD_BYTES,
        store_latency_seconds=latency,
        store_write=size / max(full.write_seconds - latency, full.write_seconds / 2),
        store_read=size / (full.read_seconds - latency),
        tiers=full.tiers,
    )


class _Probe:
    """One set of repeated rows."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        runner: PrefixRunner,
        rows: npt.NDArray[Any],
        lengths: npt.NDArray[np.int64],
    ) -> None:
        self._rows = rows
        self._storage = storage
        self._folder = f"{folder}/probe-{uuid.uuid4().hex[:12]}"
        self._runner = runner
        self._lengths = lengths
        self.write_seconds = self.read_seconds = 0.0
        self.tiers: dict[str, float] = {}

    def run(self, batches: list[npt.NDArray[np.int64]] | None = None) -> None:
        """Write, read, gather ``batches``, delete."""
        try:
            found = self._write()
            clock = time.perf_counter()
            for shard in range(found.layout.num_shards):
                found.read_shard(shard)
            self.read_seconds = time.perf_counter() - clock
            if batches is not None:
                self.tiers["host memory"] = self._gather(found, batches)
        finally:
            self._storage.delete_folder(self._folder)

    def _write(self) -> ActivationSet:
        writer = ActivationWriter(
            self._storage,
            NewSet(self._folder, RecipeDigest("probe"), {}, [1], "probe"),
            self._lengths,
            self._runner.format,
        )
        shards = [
            np.resize(self._rows, (writer.layout.num_rows(shard), self._rows.shape[1]))
            for shard in range(writer.layout.num_shards)
        ]
        clock = time.perf_counter()
        for number, rows in enumerate(shards):
            writer.write_shard(number, rows)
        self.write_seconds = time.perf_counter() - clock
        return writer.commit()

    def _gather(self, found: ActivationSet, batches: list[npt.NDArray[np.int64]]) -> float:
        held = ResidentShards(Budgets(0, found.manifest.num_bytes, 0))
        feed = HiddenFeed(found, self._runner, held)
        feed.batch(batches[0])
        clock = time.perf_counter()
        for _ in feed.batches(batches):
            pass
        seconds = time.perf_counter() - clock
        return sum(feed.batch_bytes(ids) for ids in batches) / seconds
