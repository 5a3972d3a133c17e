"""Measure store and host memory: a set of one shard is written, read, gathered from and deleted.

It goes through the same code as every activation set, so that format and checksums are in the
figures. Of local files, a shard just written comes from the page cache, as a set just built does.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from afcore.activations.feed import HiddenFeed
from afcore.activations.layout import SHARD_BYTES
from afcore.activations.manifest import NewSet
from afcore.activations.materialize import PrefixRunner
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet
from afcore.activations.tiers import Budgets
from afcore.activations.writer import ActivationWriter
from afcore.digest import RecipeDigest
from afcore.planning.profile import Bandwidths
from afcore.storage.objects import Storage

__all__ = ["probe_bandwidths"]

Batches = list[npt.NDArray[np.int64]]


def probe_bandwidths(
    storage: Storage,
    folder: str,
    runner: PrefixRunner,
    batches: Batches,
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
    probe = _Probe(storage, folder, runner, runner.rows(batches[0][:1], [1]))
    row_bytes = probe.rows[:1].nbytes
    # The probe's example i is the i-th that the epoch meets.
    lengths = runner.lengths[np.concatenate(batches)]
    ends = np.cumsum([len(ids) for ids in batches])
    num_batches = max(1, int((np.cumsum(lengths)[ends - 1] * row_bytes <= probe_bytes).sum()))
    lengths = lengths[: ends[num_batches - 1]]
    probed = np.split(np.arange(len(lengths)), ends[: num_batches - 1])
    probe.seconds(lengths[:1], [])  # first use of the libraries
    tiny_write, tiny_read, _ = probe.seconds(lengths[:1], [])
    write, read, gather = probe.seconds(lengths, probed)
    size = int(lengths.sum()) * row_bytes
    latency = min(tiny_read, tiny_write, read / 2)
    return Bandwidths(
        shard_bytes=SHARD_BYTES,
        store_latency_seconds=latency,
        store_write=size / max(write - latency, write / 2),
        store_read=size / (read - latency),
        memory_read=size / gather,
    )


@dataclass(frozen=True)
class _Probe:
    """Sets of repeated rows."""

    storage: Storage
    folder: str
    runner: PrefixRunner
    rows: npt.NDArray[Any]

    def seconds(
        self, lengths: npt.NDArray[np.int64], batches: Batches
    ) -> tuple[float, float, float]:
        """Of (writing, reading, gathering ``batches`` of) a set, which is deleted."""
        folder = f"{self.folder}/probe-{uuid.uuid4().hex[:12]}"
        new = NewSet(folder, RecipeDigest("probe"), {}, [1], "probe")
        writer = ActivationWriter(self.storage, new, lengths, self.runner.format)
        numbers = range(writer.layout.num_shards)
        width = self.rows.shape[1]
        shards = [np.resize(self.rows, (writer.layout.num_rows(i), width)) for i in numbers]
        try:
            clock = time.perf_counter()
            for number, rows in enumerate(shards):
                writer.write_shard(number, rows)
            written = time.perf_counter()
            found = writer.commit()
            opened = time.perf_counter()
            for number in numbers:
                found.read_shard(number)
            read = time.perf_counter()
            return written - clock, read - opened, self._gather_seconds(found, batches)
        finally:
            self.storage.delete_folder(folder)

    def _gather_seconds(self, found: ActivationSet, batches: Batches) -> float:
        if not batches:
            return 0.0
        held = ResidentShards(Budgets(0, found.manifest.num_bytes, 0))
        feed = HiddenFeed(found, self.runner, held)
        feed.batch(batches[0])
        clock = time.perf_counter()
        for _ in feed.batches(batches):
            pass
        return time.perf_counter() - clock
