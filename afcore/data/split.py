"""Which rows validate, which are a fold, and which make a sample: by a hash of what a row says.

Where it stands has no part in it.

So a row stays on its side when others come, equal rows are on one side, and every seed, machine and
order of the source gives the same. :mod:`afcore.tasks.prepare` says what the key of a row is.
"""

import hashlib
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from afcore.data.column_file import file_array

__all__ = ["fold_numbers", "held_out", "sampled"]

# Different ones, and none for a user's own hash of the text: independent choices.
_VALIDATION = "validation"
_SAMPLE = "sample"


def held_out(keys: Collection[str], fraction: float) -> npt.NDArray[np.bool_]:
    """Rows to validate on: those whose key's hash, as a number in [0, 1), is below ``fraction``.

    Where that is no row, the key with the smallest hash validates; where it is all of them, the key
    with the largest hash trains. Only there does a row's side depend on others.

    Args:
        keys: [n] of each row, its text or its group; at least two different ones.
        fraction: of the keys, between 0 and 1; the share of rows that comes out is near it when
            there are many keys, and may be far from it when there are few.

    Returns:
        [n] bool.
    """
    sides = (_number(_digest(_VALIDATION, key)) < fraction for key in keys)
    held = np.fromiter(sides, dtype=np.bool_, count=len(keys))
    if held.any() and not held.all():
        return held
    choose = max if held.all() else min
    chosen = choose(dict.fromkeys(keys), key=lambda key: _digest(_VALIDATION, key))
    return np.fromiter(
        ((key == chosen) != bool(side) for key, side in zip(keys, held, strict=True)),
        dtype=np.bool_,
        count=len(keys),
    )


def fold_numbers(keys: Collection[str], of: int) -> npt.NDArray[np.int64]:
    """The fold of each row: in which of ``of`` equal parts of [0, 1) its key's hash lies.

    So rows of one key are in one fold, and no other row changes a row's. Fold 1 of 5 is what
    :func:`held_out` takes at a fraction of 0.2.

    Args:
        keys: [n] of each row, its text or its group.
        of: number of folds; some may be empty when there are few keys.

    Returns:
        [n], from 1.
    """
    numbers = (int(_number(_digest(_VALIDATION, key)) * of) + 1 for key in keys)
    return np.fromiter(numbers, dtype=np.int64, count=len(keys))


def sampled(texts: Collection[str], count: int) -> npt.NDArray[np.int64]:
    """A sample: the ``count`` rows with the smallest hash of their text, equal texts in order.

    The sample of ``count`` rows is part of the sample of more. A row that comes into the source
    pushes one out at most.

    Returns:
        [min(count, n)] row numbers, ascending.
    """
    digests = file_array(len(texts), f"S{hashlib.sha256().digest_size}")
    for row, text in enumerate(texts):
        digests[row] = _digest(_SAMPLE, text)
    return np.sort(np.argsort(digests, kind="stable")[:count]).astype(np.int64)


def _digest(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt}\n{key}".encode()).digest()


def _number(digest: bytes) -> float:
    """The first eight bytes as a number in [0, 1)."""
    return int.from_bytes(digest[:8], "big") / 2**64
