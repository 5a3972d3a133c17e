"""One Zarr array of one uncompressed chunk: its bytes go straight between memory and the store.

The one chunk of such an array is its rows as they lie in memory (C order, little-endian). So it is
written and read as an object, without Zarr's codec pipeline and its copies (docs/decisions/0013);
Zarr makes and checks the metadata, and any Zarr reader opens the array.
"""

import json
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
import zarr
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from afcore.data.tensor_file import bytes_of
from afcore.errors import StoreUnreachableError
from afcore.storage.objects import Storage

__all__ = ["check_metadata", "checksum", "read_array", "write_array"]

_CHUNK = "c/0/0"
# The client asks again until an answer begins, but not when a connection breaks after that.
_again = Retrying(
    retry=retry_if_exception_type(StoreUnreachableError),
    stop=stop_after_attempt(5),
    wait=wait_exponential_jitter(multiplier=0.1, max=5.0),
    reraise=True,
)


def write_array(storage: Storage, folder: str, rows: npt.NDArray[Any]) -> str:
    """Write a two-dimensional array: ``zarr.json``, then its chunk.

    Returns:
        The checksum of its bytes.
    """
    sums = xxhash.xxh3_64()
    storage.put(f"{folder}/zarr.json", _metadata(rows))
    storage.put(f"{folder}/{_CHUNK}", bytes_of(rows), sums.update)
    return sums.hexdigest()


def read_array(
    storage: Storage,
    folder: str,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    out: npt.NDArray[Any] | None = None,
) -> tuple[npt.NDArray[Any], str]:
    """Read an array whose shape and type are known; up to five times when a connection breaks.

    Args:
        storage: where.
        folder: of the array.
        shape: as written.
        dtype: as written.
        out: read into this array of the same shape and type, else into a new one.

    Returns:
        The array, and the checksum of its bytes.

    Raises:
        FileNotFoundError: when there is no chunk.
        ValueError: when it is smaller.
        StoreUnreachableError: when the store does not answer.
    """
    rows = np.empty(shape, dtype) if out is None else out
    key = f"{folder}/{_CHUNK}"
    try:
        count, label = storage.ask(_again, _read_chunk, storage, key, bytes_of(rows))
    except KeyError:
        raise FileNotFoundError(folder) from None
    if count != rows.nbytes:
        raise ValueError(f"{count} bytes, expected {rows.nbytes}")
    return rows, label


def _read_chunk(storage: Storage, key: str, out: memoryview) -> tuple[int, str]:
    """How many bytes were read, and their checksum."""
    sums = xxhash.xxh3_64()
    return storage.get_into(key, out, sums.update), sums.hexdigest()


def check_metadata(
    storage: Storage, folder: str, shape: tuple[int, int], dtype: npt.DTypeLike
) -> None:
    """Make sure that Zarr finds the array too.

    Raises:
        FileNotFoundError: when there is no metadata.
        ValueError: when it says something else.
    """
    try:
        metadata = cpu.Buffer.from_bytes(storage.get(f"{folder}/zarr.json"))
    except KeyError:
        raise FileNotFoundError(folder) from None
    array = zarr.open_array(MemoryStore({"zarr.json": metadata}), mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"zarr.json says {array.dtype}{array.shape}, expected {dtype}{shape}")


def checksum(rows: npt.NDArray[Any]) -> str:
    """xxh3-64 of an array's bytes."""
    return xxhash.xxh3_64_hexdigest(bytes_of(rows))


def _metadata(rows: npt.NDArray[Any]) -> bytes:
    tree = json.loads(_metadata_of_one_row(rows.dtype.name, rows.shape[1]))
    tree["shape"] = tree["chunk_grid"]["configuration"]["chunk_shape"] = list(rows.shape)
    return json.dumps(tree, indent=2).encode()


@cache
def _metadata_of_one_row(dtype: str, width: int) -> bytes:
    """As Zarr makes it, which takes a millisecond."""
    objects: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(objects),
        shape=(1, width),
        chunks=(1, width),
        dtype=dtype,
        compressors=None,
        fill_value=0,
    )
    metadata: bytes = objects["zarr.json"].to_bytes()
    return metadata
