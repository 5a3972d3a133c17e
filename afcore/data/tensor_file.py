"""Arrays as safetensors, written in pieces and read in place: neither is held twice.

The format: the length of a header, 8 bytes; the header, JSON that says where each array lies behind
it; the arrays.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bytes_of", "tensor_pieces", "view_tensors"]

_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
_TYPES = {name: np.dtype(kind) for kind, name in _NAMES.items()}
_LENGTH_BYTES = 8


def tensor_pieces(tensors: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """The file's bytes, one piece for the header and one for each array."""
    # The widest first, so that each begins at a multiple of its width; as safetensors does it.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, end = {}, 0
    for name in names:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    yield len(text).to_bytes(_LENGTH_BYTES, "little") + text
    for name in names:
        yield bytes_of(tensors[name])


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array, not copied where they lie in order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def view_tensors(data: bytes | memoryview) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file's bytes: views, nothing is copied."""
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(bytes(data[_LENGTH_BYTES:start]))
    header.pop("__metadata__", None)
    found = {}
    for name, told in header.items():
        begin, end = told["data_offsets"]
        raw = np.frombuffer(data, np.uint8, end - begin, start + begin)
        found[name] = raw.view(_TYPES[told["dtype"]]).reshape(told["shape"])
    return found
