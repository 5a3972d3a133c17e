"""Shards held nearer than the store: in device memory, host memory and a local file.

Each is labelled with the checksum of its bytes, so whoever asks for a shard gets that one or none:
a set built meanwhile takes the place of the one below it, shard by shard, in the same memory.
"""

import os
import tempfile
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from afcore.activations.arrays import checksum
from afcore.activations.layout import RaggedLayout
from afcore.activations.tiers import Budgets, Tier, choose_window, place, window_bytes
from afcore.activations.validation_states import ValidationStates
from afcore.data.tensor_file import bytes_of
from afcore.errors import StorageFullError

__all__ = ["ResidentShards"]

_CPU = torch.device("cpu")
_Rows = npt.NDArray[Any]


class ResidentShards:
    """The stored rows of one set's shards, as far as budgets allow.

    Several threads may put and get different shards.

    Args:
        budgets: of each tier.
        device: of the device tier.
        store_is_local: the store's own files are the disk tier then; none is written beside them.

    Attributes:
        tiers: of each shard.
        window: shards in a window, None: memory holds all of them.
        random_access: every shard is held where any row can be read at any time.
        host: rows by shard in host memory, or mapped from the local file for random access.
        on_device: [t + 1, w] rows of the device tier, the last one of zeros (what padding is
            gathered from). uint16 is seen as int16, as CUDA gathers no uint16.
        device_first: the first of these rows, by shard.
        evaluated: batches of the validation split, beside the set.
    """

    def __init__(
        self, budgets: Budgets, device: torch.device = _CPU, store_is_local: bool = True
    ) -> None:
        self.budgets = budgets
        self.tiers: list[Tier] = []
        self.window: int | None = None
        self.random_access = False
        self.host: dict[int, _Rows] = {}
        self.on_device: Tensor | None = None
        self.device_first: dict[int, int] = {}
        self.evaluated = ValidationStates()
        self._device = device
        self._store_is_local = store_is_local
        self._layout: RaggedLayout | None = None
        self._row_bytes = 0
        self._num_rows = np.empty(0, dtype=np.int64)
        self._labels: dict[int, str] = {}
        self._file: _RowsFile | None = None
        self._dtype: Any = None
        self._allocating = threading.Lock()

    def fit(self, layout: RaggedLayout, row_bytes: int, random_access: bool | None = None) -> None:
        """Make room for a set; what is held stays when the set is laid out like the last one.

        Args:
            layout: of the set.
            row_bytes: of one stored row.
            random_access: what is beyond the memory goes to a local file, whatever its budget, so
                that any row can be read at any time. None: as before.
        """
        same = row_bytes == self._row_bytes and self._is_laid_out_as(layout)
        if random_access is None:
            random_access = same and self.random_access
        if same and random_access == self.random_access:
            return
        self._clear()
        self._layout, self._row_bytes, self.random_access = layout, row_bytes, random_access
        self._num_rows = layout.rows_by_shard
        sizes = self._shard_bytes
        self.window = choose_window(sizes, self.budgets)
        self.tiers = place(sizes, self.budgets, self._streamed)
        if random_access:
            self.tiers = ["local disk" if tier == "object store" else tier for tier in self.tiers]
        self.device_first = self._first("device memory")
        on_disk = self._first("local disk")
        if on_disk and (random_access or not self._store_is_local):
            first_byte = {shard: row * row_bytes for shard, row in on_disk.items()}
            self._file = _RowsFile(first_byte, self._tier_bytes("local disk"))

    def put(self, shard: int, label: str, rows: _Rows) -> None:
        """Hold a shard, if its tier is one that holds.

        Args:
            shard: its number.
            label: the checksum of its bytes.
            rows: [t, w] stored rows; kept, not copied, in host memory.
        """
        tier = self.tiers[shard]
        self._labels.pop(shard, None)
        self._dtype = rows.dtype
        if tier == "host memory":
            self.host[shard] = rows
        elif tier == "device memory":
            self._put_on_device(shard, rows)
        elif tier == "local disk" and self._file is not None:
            self._file.write(shard, rows)
            if self.random_access:
                self.host[shard] = self._file.map(shard, rows.shape, rows.dtype)
        else:
            return
        self._labels[shard] = label

    def get(self, shard: int, label: str) -> _Rows | None:
        """The rows of a shard, or None when other bytes or none are held."""
        if not self.has(shard, label):
            return None
        if shard in self.host:
            return self.host[shard]
        num_rows = int(self._num_rows[shard])
        if shard in self.device_first:
            assert self.on_device is not None
            first = self.device_first[shard]
            copied: _Rows = self.on_device[first : first + num_rows].cpu().numpy()
            as_stored: _Rows = copied.view(self._dtype)
            return as_stored
        assert self._file is not None
        rows = np.empty((num_rows, self._row_bytes // self._dtype.itemsize), dtype=self._dtype)
        self._file.read(shard, rows)
        return rows if checksum(rows) == label else None

    def has(self, shard: int, label: str) -> bool:
        """Whether the shard with this checksum is held."""
        return self._labels.get(shard) == label

    def bytes_by_tier(self) -> dict[str, int]:
        """Bytes of the set by where they are read from, empty tiers left out."""
        return {tier: self._tier_bytes(tier) for tier in dict.fromkeys(self.tiers)}

    @property
    def room_bytes(self) -> int:
        """Left of the budget of the memory that the device computes in; windows keep their part."""
        if self._device.type == "cuda":
            return self.budgets.device_bytes - self._tier_bytes("device memory")
        streamed = window_bytes(self._shard_bytes, self._streamed)
        return self.budgets.host_bytes - self._tier_bytes("host memory") - streamed

    @property
    def host_bytes(self) -> int:
        """Host memory that is taken now."""
        shards = list(self.host.items())
        held = sum(rows.nbytes for shard, rows in shards if self.tiers[shard] == "host memory")
        return held + (self.evaluated.num_bytes if self._device.type != "cuda" else 0)

    @property
    def file_bytes(self) -> int:
        """Disk that is taken now."""
        return self._file.num_bytes if self._file is not None else 0

    @property
    def _streamed(self) -> int | None:
        """Shards in a window of those that are streamed; None: nothing is."""
        return None if self.random_access else self.window

    @property
    def _shard_bytes(self) -> list[int]:
        return [int(rows) * self._row_bytes for rows in self._num_rows]

    def _is_laid_out_as(self, layout: RaggedLayout) -> bool:
        known = self._layout
        return known is not None and (
            np.array_equal(layout.shard, known.shard)
            and np.array_equal(layout.lengths, known.lengths)
            and np.array_equal(layout.rows_by_shard, known.rows_by_shard)
        )

    def _clear(self) -> None:
        self.host, self.on_device, self._file = {}, None, None
        self._labels = {}

    def _first(self, tier: Tier) -> dict[int, int]:
        """First row of each of a tier's shards among that tier's rows."""
        first, row = {}, 0
        for shard, of in enumerate(self.tiers):
            if of == tier:
                first[shard] = row
                row += int(self._num_rows[shard])
        return first

    def _tier_bytes(self, tier: Tier) -> int:
        sizes = zip(self._shard_bytes, self.tiers, strict=True)
        return sum(size for size, of in sizes if of == tier)

    def _put_on_device(self, shard: int, rows: _Rows) -> None:
        stored = torch.from_numpy(rows.view(np.int16) if rows.dtype == np.uint16 else rows)
        first = self.device_first[shard]
        self._room_on_device(stored)[first : first + len(rows)] = stored.to(self._device)

    def _room_on_device(self, like: Tensor) -> Tensor:
        with self._allocating:
            if self.on_device is None:
                total = self._tier_bytes("device memory") // self._row_bytes
                self.on_device = torch.zeros(
                    (total + 1, like.shape[1]), dtype=like.dtype, device=self._device
                )
            return self.on_device


class _RowsFile:
    """A file without a name, with a place for each of some shards; gone with its last user."""

    def __init__(self, first_byte: dict[int, int], num_bytes: int) -> None:
        self._first_byte, self.num_bytes = first_byte, num_bytes
        self._file = tempfile.TemporaryFile(prefix="autofreeze-")  # noqa: SIM115
        try:
            # Taken now: a disk that fills up later would kill a process that has it mapped.
            os.posix_fallocate(self._file.fileno(), 0, num_bytes)
        except OSError as error:
            self._file.close()
            raise StorageFullError(
                f"cannot keep {num_bytes / 1e6:.0f} MB of activations in "
                f"{tempfile.gettempdir()}: {error.strerror}. Lower cache.disk_bytes, or point "
                "TMPDIR elsewhere."
            ) from error

    def __del__(self) -> None:
        self._file.close()

    def write(self, shard: int, rows: _Rows) -> None:
        data, done = bytes_of(rows), 0
        while done < len(data):
            where = self._first_byte[shard] + done
            done += os.pwrite(self._file.fileno(), data[done:], where)

    def read(self, shard: int, out: _Rows) -> None:
        data, done = bytes_of(out), 0
        while done < len(data):
            where = self._first_byte[shard] + done
            done += os.preadv(self._file.fileno(), [data[done:]], where)

    def map(self, shard: int, shape: tuple[int, ...], dtype: Any) -> _Rows:
        return np.memmap(
            self._file, dtype=dtype, mode="r+", offset=self._first_byte[shard], shape=shape
        )
