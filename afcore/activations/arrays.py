"""One Zarr array of one uncompressed chunk: its bytes go straight between memory and the store.

The one chunk of such an array is its rows as they lie in memory (C order, little-endian). So it is
written and read as an object, without Zarr's codec pipeline and its copies (docs/decisions/0013);
Zarr makes and checks the metadata, and any Zarr reader opens the array.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
import zarr
from zarr.storage import MemoryStore

from afcore.storage import Storage

__all__ = ["bytes_of", "check_metadata", "checksum", "read_array", "write_array"]

_CHUNK = "c/0/0"


def write_array(storage: Storage, folder: str, rows: npt.NDArray[Any]) -> None:
    """Write a two-dimensional array: ``zarr.json``, then its chunk."""
    storage.put(f"{folder}/zarr.json", _metadata(rows))
    storage.put(f"{folder}/{_CHUNK}", bytes_of(rows))


def read_array(
    storage: Storage,
    folder: str,
    shape: tuple[int, int],
    dtype: npt.DTypeLike,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Read an array whose shape and type are known.

    Args:
        storage: where.
        folder: of the array.
        shape: as written.
        dtype: as written.
        out: read into this array of the same shape and type, else into a new one.

    Raises:
        FileNotFoundError: when there is no chunk.
        ValueError: when it is of another size.
    """
    rows = np.empty(shape, dtype) if out is None else out
    try:
        found = storage.get_into(f"{folder}/{_CHUNK}", bytes_of(rows))
    except KeyError:
        raise FileNotFoundError(folder) from None
    if found != rows.nbytes:
        raise ValueError(f"{found} bytes, expected {rows.nbytes}")
    return rows


def check_metadata(
    storage: Storage, folder: str, shape: tuple[int, int], dtype: npt.DTypeLike
) -> None:
    """Make sure that Zarr finds the array too.

    Raises:
        FileNotFoundError: when there is no metadata.
        ValueError: when it says something else.
    """
    array = zarr.open_array(storage.zarr_store(folder), mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"zarr.json says {array.dtype}{array.shape}, expected {dtype}{shape}")


def checksum(rows: npt.NDArray[Any]) -> str:
    """xxh3-64 of an array's bytes."""
    return xxhash.xxh3_64_hexdigest(bytes_of(rows))


def bytes_of(rows: npt.NDArray[Any]) -> memoryview:
    """An array's bytes; those of a contiguous one, without a copy."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data


def _metadata(rows: npt.NDArray[Any]) -> bytes:
    objects: dict[str, Any] = {}
    zarr.create_array(
        MemoryStore(objects),
        shape=rows.shape,
        chunks=rows.shape,
        dtype=rows.dtype,
        compressors=None,
        fill_value=0,
    )
    metadata: bytes = objects["zarr.json"].to_bytes()
    return metadata
