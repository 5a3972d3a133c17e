"""Rows by what they say: a digest of each, and one of all of them in any order."""

import hashlib
import json

import numpy as np
import numpy.typing as npt

from afcore.data.column_file import file_array
from afcore.data.sources import Rows
from afcore.data.tensor_file import bytes_of
from afcore.digest import ContentDigest

__all__ = ["DIGEST_BYTES", "RowDigests", "digest_of_rows", "row_digests"]

DIGEST_BYTES = 16
RowDigests = npt.NDArray[np.bytes_]
"""[n] of :data:`DIGEST_BYTES` each; two differ where the rows do."""


def row_digests(rows: Rows) -> RowDigests:
    """Of each row: all that is read of it, inputs and targets, by the names of their fields."""
    columns = {**rows.inputs, **rows.targets}
    names = json.dumps(list(columns)).encode()
    found = file_array(len(rows), f"S{DIGEST_BYTES}")
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        content = names + json.dumps(values, default=str).encode()
        found[row] = hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()
    return found


def digest_of_rows(digests: RowDigests) -> ContentDigest:
    """The same for the same rows in another order; a row that stands twice counts twice."""
    ordered = file_array(len(digests), digests.dtype)
    ordered[:] = digests
    ordered.sort()
    return ContentDigest(hashlib.sha256(bytes_of(ordered)).hexdigest())
