"""Hidden states of batches from each tier, for ``bench/gpu.py``: torch, numpy and zarr suffice.

* ``device``: all rows in device memory, gathered there.
* ``host``: rows in host memory. A thread gathers a batch's rows into pinned memory; a stream of
  its own copies them, without padding, while the device computes.
* ``disk``: the same from a memory-mapped file.
* ``store``: a Zarr array a shard, whole shards read by a thread. Examples are shuffled within a
  window of shards, so the batches are others than those of the other tiers.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import zarr
from torch import Tensor

from afcore.activations.layout import RaggedLayout, plan_layout
from afcore.compute import to_device

TIERS = ("device", "host", "disk", "store")
_BATCHES_AHEAD = 2
_WINDOW_SHARDS = 4
_READERS = 4

Ids = np.ndarray
Feed = Callable[[list[Ids]], Iterator[tuple[Ids, Tensor]]]


def row_numbers(starts: Ids, lengths: Ids) -> Ids:
    """Rows ``start .. start + length - 1`` of each example, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def places(lengths: Ids) -> Ids:
    """Where in a padded batch, seen as [b * s] rows, each token belongs."""
    width = int(lengths.max())
    return row_numbers(np.arange(len(lengths)) * width, lengths)


def pad(rows: Tensor, at: Tensor, lengths: Ids) -> Tensor:
    """Ragged [t, h] rows to [b, s, h] float32, zeros elsewhere; all on the device."""
    width = int(lengths.max())
    padded = torch.zeros(len(lengths) * width, rows.shape[1], device=rows.device)
    return padded.index_copy_(0, at, rows.float()).view(len(lengths), width, -1)


def device_feed(rows: Tensor, lengths: Ids, device: torch.device) -> Feed:
    """From device memory.

    Args:
        rows: [t, h] bfloat16, all examples one after the other.
        lengths: [n] tokens of each example.
        device: where ``rows`` go.
    """
    rows, starts = rows.to(device), np.cumsum(lengths) - lengths

    def feed(batches: list[Ids]) -> Iterator[tuple[Ids, Tensor]]:
        for ids in batches:
            wanted = to_device(torch.from_numpy(row_numbers(starts[ids], lengths[ids])), device)
            at = to_device(torch.from_numpy(places(lengths[ids])), device)
            yield ids, pad(rows.index_select(0, wanted), at, lengths[ids])

    return feed


def host_feed(rows: Tensor, lengths: Ids, device: torch.device) -> Feed:
    """From host memory or a memory map; arguments as for :func:`device_feed`."""
    starts = np.cumsum(lengths) - lengths

    def feed(batches: list[Ids]) -> Iterator[tuple[Ids, Tensor]]:
        staged = ((ids, rows, starts[ids]) for ids in batches)
        return _copied(staged, lengths, device)

    return feed


def disk_feed(rows: Tensor, lengths: Ids, device: torch.device, folder: Path) -> Feed:
    """From a memory-mapped file that is written here."""
    path = folder / "rows.bin"
    rows.view(torch.uint16).numpy().tofile(path)
    mapped = np.memmap(path, dtype=np.uint16, mode="c", shape=tuple(rows.shape))
    return host_feed(torch.from_numpy(mapped).view(torch.bfloat16), lengths, device)


def store_feed(rows: Tensor, lengths: Ids, device: torch.device, folder: Path) -> Feed:
    """From Zarr arrays that are written here, one a shard, laid out as activation sets are."""
    layout = plan_layout(lengths, row_bytes=rows.shape[1] * rows.element_size())
    starts = np.cumsum(lengths) - lengths
    store = zarr.storage.LocalStore(folder / "store")
    arrays = []
    for shard in range(layout.num_shards):
        ids = layout.examples(shard)
        wanted = torch.from_numpy(row_numbers(starts[ids], lengths[ids]))
        stored = rows.index_select(0, wanted).view(torch.uint16).numpy()
        arrays.append(_write(store, f"{shard:05d}", stored))

    def feed(batches: list[Ids]) -> Iterator[tuple[Ids, Tensor]]:
        """As many batches as are given, of the same size; which examples, the shards decide."""
        own = _window_batches(arrays, layout, lengths, len(batches[0]), len(batches))
        return _copied(own, lengths, device)

    return feed


def _write(store: object, name: str, rows: Ids) -> zarr.Array:
    array = zarr.create_array(
        store, name=name, shape=rows.shape, chunks=rows.shape, dtype=rows.dtype, compressors=None
    )
    array[...] = rows
    return array


def _window_batches(
    arrays: list[zarr.Array], layout: RaggedLayout, lengths: Ids, batch_size: int, count: int
) -> Iterator[tuple[Ids, Tensor, Ids]]:
    """Batches grouped by length within windows of whole shards, one window read ahead."""
    rng = np.random.default_rng(0)
    windows = _windows(len(arrays), rng)
    readers = ThreadPoolExecutor(_READERS)

    def begin() -> tuple[list[int], list[Future]]:
        window = next(windows)
        return window, [readers.submit(_read, arrays[shard]) for shard in window]

    window, reading = begin()
    try:
        while True:
            rows = torch.cat([future.result() for future in reading])
            ids = np.concatenate([layout.examples(shard) for shard in window])
            window, reading = begin()
            starts = np.cumsum(lengths[ids]) - lengths[ids]
            by_length = np.argsort(lengths[ids], kind="stable")
            num_batches = len(ids) // batch_size
            for at in rng.permutation(num_batches):
                chosen = by_length[at * batch_size : (at + 1) * batch_size]
                yield ids[chosen], rows, starts[chosen]
                count -= 1
                if not count:
                    return
    finally:
        readers.shutdown(wait=False, cancel_futures=True)


def _windows(num_shards: int, rng: np.random.Generator) -> Iterator[list[int]]:
    while True:
        order = rng.permutation(num_shards)
        for start in range(0, num_shards, _WINDOW_SHARDS):
            yield list(order[start : start + _WINDOW_SHARDS])


def _read(array: zarr.Array) -> Tensor:
    return torch.from_numpy(np.asarray(array[...])).view(torch.bfloat16)


def _copied(
    staged: Iterable[tuple[Ids, Tensor, Ids]], lengths: Ids, device: torch.device
) -> Iterator[tuple[Ids, Tensor]]:
    """Gather rows on the host and copy them to the device, some batches ahead of their use.

    Args:
        staged: of each batch its ids, the [t, h] rows to gather from, and the first row of each.
        lengths: [n].
        device: where they go.
    """
    cuda = device.type == "cuda"
    stream = torch.cuda.Stream(device) if cuda else None

    def copy() -> Iterator[tuple[Ids, Tensor, Tensor, object]]:
        # Pinned memory comes from torch's own pool, which waits for the copies out of it.
        for ids, rows, starts in staged:
            wanted = torch.from_numpy(row_numbers(starts, lengths[ids]))
            ragged = torch.empty(len(wanted), rows.shape[1], dtype=rows.dtype, pin_memory=cuda)
            torch.index_select(rows, 0, wanted, out=ragged)
            at = torch.from_numpy(places(lengths[ids]))
            with torch.cuda.stream(stream):
                given = ragged.to(device, non_blocking=True), to_device(at, device)
                event = stream.record_event() if stream else None
            yield ids, *given, event

    for ids, ragged, at, event in _ahead(copy()):
        if cuda:
            torch.cuda.current_stream(device).wait_event(event)
            for tensor in (ragged, at):
                tensor.record_stream(torch.cuda.current_stream(device))
        yield ids, pad(ragged, at, lengths[ids])


def _ahead(items: Iterator) -> Iterator:
    """The same items, made in a thread, a few ahead."""
    waiting: queue.Queue = queue.Queue(_BATCHES_AHEAD)
    end = object()

    def make() -> None:
        try:
            for item in items:
                waiting.put(item)
            waiting.put(end)
        except BaseException as error:
            waiting.put(error)

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    while (item := waiting.get()) is not end:
        if isinstance(item, BaseException):
            raise item
        yield item
    thread.join()
