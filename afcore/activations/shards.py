"""The shards of an activation set: one array each, one chunk, one object, written once."""

import uuid
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from afcore.activations.arrays import write_array
from afcore.storage.objects import Storage

__all__ = ["Shard", "new_generation", "shard_name", "write_shard"]


@dataclass(frozen=True)
class Shard:
    """One committed shard: its array's name below the set, its rows, its xxh3-64.

    ``folder`` is that of the set that wrote it, where it is another one.
    """

    name: str
    num_rows: int
    checksum: str
    folder: str | None = None


def write_shard(
    storage: Storage, folder: str, shard: int, rows: npt.NDArray[Any], generation: str
) -> Shard:
    """Write one shard whole.

    Args:
        storage: where.
        folder: of the set.
        shard: its number.
        rows: [t, w] stored rows.
        generation: of the writer.
    """
    name = shard_name(shard, generation)
    return Shard(name, len(rows), write_array(storage, f"{folder}/{name}", rows))


def shard_name(shard: int, generation: str) -> str:
    """Of a shard's array, below its set."""
    return f"shards/{shard:05d}-{generation}"


def new_generation() -> str:
    """A name that no other writer has."""
    return uuid.uuid4().hex[:12]
