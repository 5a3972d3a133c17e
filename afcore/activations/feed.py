"""The hidden states of an epoch's batches, from the best tier that holds them.

Shards in device or host memory are gathered from there. The others, when there are any, are
streamed: whole shards come from the local disk or the store, ahead of the batches that need them,
for which the order of batches is made (:func:`afcore.data.order.windowed_batches`). On CUDA a
thread puts batches together, a few ahead of the training. On the CPU whoever asks does: there an
operator of torch in a second thread brings a second team of OpenMP threads, which spin on the cores
that train. What the threads raise is raised to whoever asks for the batch. A damaged shard is
computed again there too, never in a thread: the model is in use.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from afcore.activations.gather import gather_bf16_rows, gather_device_rows, gather_rows
from afcore.activations.materialize import PrefixRunner, read_or_repair
from afcore.activations.residency import Residency, measure_budgets
from afcore.activations.resident_shards import ResidentShards
from afcore.activations.sets import ActivationSet
from afcore.activations.shard_stream import ShardStream
from afcore.errors import IntegrityError
from afcore.model.forwards import Hidden

__all__ = ["HiddenFeed"]

_READERS = 4
_BATCHES_AHEAD = 3
_WINDOWS_AT_ONCE = 2
_CPU = torch.device("cpu")
_log = logging.getLogger(__name__)


class HiddenFeed:
    """The hidden states of one activation set, by example id.

    Args:
        activation_set: to read.
        runner: computes damaged shards again.
        resident: what this process holds; None: nothing yet, within half of the free memory.
        window: shards in a window of the order that batches will come in; None: any order.
        device: where batches go.
    """

    def __init__(
        self,
        activation_set: ActivationSet,
        runner: PrefixRunner,
        resident: ResidentShards | None = None,
        window: int | None = None,
        device: torch.device = _CPU,
    ) -> None:
        manifest = activation_set.manifest
        self._set, self._runner, self._window, self._device = activation_set, runner, window, device
        self._layout = activation_set.layout
        self._format = manifest.format
        self._row_bytes = self._format.row_bytes
        if resident is None:
            resident = ResidentShards(measure_budgets(Residency(device)), device)
        self._resident = resident
        resident.fit(self._layout, self._row_bytes, random_access=False)
        if window is None and resident.window is not None:
            self._warn_random_access()
            resident.fit(self._layout, self._row_bytes, random_access=True)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._hold_at_hand()
        self._all_at_hand = all(self._at_hand(shard) for shard in range(len(resident.tiers)))
        self.tier_bytes = resident.bytes_by_tier()
        self._on_device = np.asarray([tier == "device memory" for tier in resident.tiers])
        self._is_widened = (
            self._stream is None and manifest.dtype == "bf16" and not self._on_device.any()
        )
        _log.info(
            "activations@%d: %s",
            manifest.boundary,
            ", ".join(f"{size / 1e6:.0f} MB in {tier}" for tier, size in self.tier_bytes.items()),
        )

    @property
    def boundary(self) -> int:
        """That of the set."""
        return self._set.manifest.boundary

    def batches(self, batches: Sequence[npt.NDArray[np.int64]]) -> Iterator[Hidden]:
        """Hidden states of each batch in turn, put together ahead of being asked for.

        Args:
            batches: [b] example ids each.

        Yields:
            [b, s, h] float32 on the device, zeros where padded.
        """
        needs = [self._streamed(ids) for ids in batches]
        shards = _WINDOWS_AT_ONCE * (self._window or 1)
        readers = ThreadPoolExecutor(_READERS)
        try:
            stream = ShardStream(needs, self._load, self._mend, readers, shards)
            for number, hidden in enumerate(self._in_turn(batches, stream)):
                stream.release(number)
                yield hidden
        finally:
            readers.shutdown(cancel_futures=True)

    def _in_turn(
        self, batches: Sequence[npt.NDArray[np.int64]], stream: ShardStream
    ) -> Iterator[Hidden]:
        if self._stream is None:
            for number, ids in enumerate(batches):
                yield self._put_together(ids, stream.rows(number))
            return
        assembler = ThreadPoolExecutor(1)
        ahead: deque[Future[tuple[Hidden, torch.cuda.Event]]] = deque()
        try:
            for number, ids in enumerate(batches):
                rows = stream.rows(number)
                ahead.append(assembler.submit(self._assemble, self._stream, ids, rows))
                if len(ahead) > _BATCHES_AHEAD:
                    yield self._ready(*ahead.popleft().result())
            while ahead:
                yield self._ready(*ahead.popleft().result())
        finally:
            assembler.shutdown(cancel_futures=True)

    def batch(self, ids: npt.NDArray[np.int64]) -> Hidden:
        """Hidden states of a single batch, put together now; see :meth:`batches`."""
        streamed = {}
        for shard in self._streamed(ids):
            try:
                streamed[shard] = self._load(shard)
            except IntegrityError:
                streamed[shard] = self._mend(shard)
        if self._stream is None:
            return self._put_together(ids, streamed)
        return self._ready(*self._assemble(self._stream, ids, streamed))

    def batch_bytes(self, ids: npt.NDArray[np.int64]) -> int:
        """Bytes of activations that a batch takes, without padding."""
        return int(self._layout.lengths[ids].sum()) * self._row_bytes

    def _label(self, shard: int) -> str:
        return self._set.manifest.shards[shard].checksum

    def _at_hand(self, shard: int) -> bool:
        return shard in self._resident.host or shard in self._resident.device_first

    def _streamed(self, ids: npt.NDArray[np.int64]) -> list[int]:
        if self._all_at_hand:
            return []
        return [s for s in np.unique(self._layout.shard[ids]).tolist() if not self._at_hand(s)]

    def _hold_at_hand(self) -> None:
        """Read, by some threads, the shards that memory is to hold and does not yet."""
        tiers = ["device memory", "host memory"]
        if self._resident.random_access:
            tiers.append("local disk")
        missing = [
            shard
            for shard, tier in enumerate(self._resident.tiers)
            if tier in tiers and not self._resident.has(shard, self._label(shard))
        ]
        readers = ThreadPoolExecutor(_READERS)
        try:
            loading = {shard: readers.submit(self._hold, shard) for shard in missing}
            for shard, future in loading.items():
                try:
                    future.result()
                except IntegrityError:
                    self._mend(shard)
        finally:
            readers.shutdown(cancel_futures=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # another stream gathers from what was copied

    def _hold(self, shard: int) -> None:
        self._load(shard)

    def _load(self, shard: int) -> npt.NDArray[Any]:
        """A shard's rows from the local disk, else from the store, then held where it should be."""
        label = self._label(shard)
        rows = self._resident.get(shard, label)
        if rows is None:
            rows = self._set.read_shard(shard)
            self._resident.put(shard, label, rows)
        return rows

    def _mend(self, shard: int) -> npt.NDArray[Any]:
        rows = read_or_repair(self._set, shard, self._runner)
        self._resident.put(shard, self._label(shard), rows)
        return rows

    def _assemble(
        self,
        stream: torch.cuda.Stream,
        ids: npt.NDArray[np.int64],
        streamed: dict[int, npt.NDArray[Any]],
    ) -> tuple[Hidden, torch.cuda.Event]:
        """A batch, and the event that says when it is there."""
        with torch.cuda.stream(stream):
            return self._put_together(ids, streamed), stream.record_event()

    def _ready(self, hidden: Hidden, there: torch.cuda.Event) -> Hidden:
        current = torch.cuda.current_stream(self._device)
        current.wait_event(there)
        for values in hidden.values():
            values.record_stream(current)
        return hidden

    def _put_together(
        self, ids: npt.NDArray[np.int64], streamed: dict[int, npt.NDArray[Any]]
    ) -> Hidden:
        layout, resident = self._layout, self._resident
        shards, starts, lengths = layout.shard[ids], layout.start[ids], layout.lengths[ids]
        if self._is_widened:
            rows = [streamed[s] if s in streamed else resident.host[s] for s in shards.tolist()]
            widened = gather_bf16_rows(rows, starts, lengths)
            parts = widened.split(list(self._format.widths.values()), dim=-1)
            return dict(zip(self._format.widths, parts, strict=True))
        num_columns = int(lengths.max())
        on_device = self._on_device[shards]
        batch = None
        if on_device.any():
            assert resident.on_device is not None
            batch = gather_device_rows(
                resident.on_device, resident.device_first, shards, starts, lengths, num_columns
            )
        if not on_device.all():
            some = np.flatnonzero(~on_device)
            rows = [
                streamed[s] if s in streamed else resident.host[s] for s in shards[some].tolist()
            ]
            stored = torch.empty(
                (len(some), num_columns, rows[0].shape[1]),
                dtype=torch.from_numpy(rows[0][:0]).dtype,
                pin_memory=self._stream is not None,
            )
            gather_rows(rows, starts[some], lengths[some], stored.numpy())
            stored = stored.to(self._device, non_blocking=True)
            if batch is None:
                batch = stored
            else:
                batch[torch.from_numpy(some).to(self._device)] = stored.view(batch.dtype)
        assert batch is not None
        return self._format.decode(batch)

    def _warn_random_access(self) -> None:
        _log.warning(
            "activations@%d: this epoch was planned when memory held the set (%.0f MB), now it "
            "does not; the rest is read row by row from a local file, which is slow",
            self._set.manifest.boundary,
            self._set.manifest.num_bytes / 1e6,
        )
